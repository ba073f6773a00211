"""The HTTP endpoints: who may see what, liveness and readiness, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from reconciler.core.observed import Phase
from reconciler.report.event_stream import MOST
from reconciler.report.http_routes import ailment, is_host_allowed
from reconciler.report.http_server import LIMIT, Serving
from reconciler.report.snapshot import Pulse
from reconciler.runtime.endpoints import EndpointError, Endpoints, serving
from support.endpoints import client_of, whole
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, running, target
from support.wait import WITHIN, eventually, free_port


async def test_ready_names_each_critical_tunnel_that_is_not_up(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = (
        file(sshd, local("echo", free_port(), echo.port), local("off", free_port(), echo.port, enabled="false"))
        + target(sshd, "dead", port=free_port())
        + local("vital", free_port(), echo.port)
        + local("minor", free_port(), echo.port, critical="false")
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("dead/vital", Phase.DOWN)
        await it.tunnels.until("server/echo", Phase.UP)
        status, said = await it.http.text("/readyz")
        assert status == 503
        assert said.startswith("dead/vital is down (refused): ")
        assert said.count("\n") == 1, "neither the one that is off nor the one that is not critical"
        assert (await it.http.text("/readyz/server/echo")) == (200, "ok\n")
        assert (await it.http.text("/readyz/server/off")) == (200, "ok\n")
        assert (await it.http.text("/readyz/dead/minor"))[0] == 503
        assert (await it.http.text("/readyz/no/such"))[0] == 404
        assert (await it.http.text("/livez")) == (200, "ok\n")
        it.tunnels.edit(file(sshd, local("echo", free_port(), echo.port)))
        await it.control.post("/api/v1/reload")
        await it.control.get("/api/v1/wait")
        assert (await it.http.text("/readyz")) == (200, "ok\n")


async def test_standby_is_ready(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port), connect="onDemand")
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/echo", Phase.STANDBY)
        assert (await it.http.text("/readyz")) == (200, "ok\n")


def test_a_loop_that_hangs_is_not_alive() -> None:
    assert ailment(Pulse(passed=1.0, lag=0.0, again=0.0, ending=False)) == ""
    assert ailment(Pulse(passed=None, lag=0.0, again=0.0, ending=False)) == "", "it is only starting"
    assert "has not looked for 100 s" in ailment(Pulse(passed=100.0, lag=0.0, again=0.0, ending=False))
    assert "late by 11 s" in ailment(Pulse(passed=1.0, lag=12.0, again=11.0, ending=False))
    assert ailment(Pulse(passed=1.0, lag=60.0, again=0.2, ending=False)) == "", "it was stopped, and goes on"


async def test_names_that_anybody_could_point_here_are_refused(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port))
    async with whole(tmp_path, text, allowed_hosts=("tunnels.example.com",)) as it:
        await it.tunnels.all_up()
        for path in ("/", "/api/v1/status", "/api/v1/events", "/page/page.js", "/readyz/server/echo"):
            assert (await it.http.text(path, Host="evil.example.com"))[0] == 403
        for path in ("/metrics", "/livez", "/readyz"):
            assert (await it.http.text(path, Host="evil.example.com"))[0] == 200
        for host in ("tunnels.example.com:80", "localhost", "10.0.0.1:9722", "[::1]:9722"):
            assert (await it.http.text("/api/v1/status", Host=host))[0] == 200


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9722", True),
        ("[::1]", True),
        ("[fe80::1]:80", True),
        ("LOCALHOST:9722", True),
        ("localhost.", True),
        ("named.example.com", True),
        ("", False),
        ("evil.example.com", False),
        ("127.0.0.1.evil.example.com", False),
        ("localhost.evil.example.com:80", False),
        ("named.example.com.evil:80", False),
    ],
)
def test_which_hosts_are_ours(header: str, allowed: bool) -> None:
    assert is_host_allowed(header, ("Named.example.com",)) is allowed


async def test_it_is_read_only_and_no_other_site_may_read_it(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            async with it.http.session.request(method, "/api/v1/status") as response:
                assert response.status == 405
                assert response.headers["Allow"] == "GET, HEAD"
        async with it.http.session.get("/api/v1/status", headers={"Origin": "http://evil.example"}) as response:
            assert not [name for name in response.headers if name.lower().startswith("access-control")]
        async with it.http.session.post("/api/v1/restart", json={"ids": ["*"]}) as response:
            assert response.status == 405


async def test_the_status_page_is_served_with_nothing_from_elsewhere(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        async with it.http.session.get("/") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            page = await response.text()
        for file_name in re.findall(r'(?:src|href)="(page/[^"]+)"', page):
            assert (await it.http.text(f"/{file_name}"))[0] == 200
        for path in ("/page/..%2fhttp.py", "/page/%2e%2e/http.py", "/page/none.js", "/page/", "/http.py"):
            assert (await it.http.text(path))[0] in (403, 404)


async def test_every_answer_has_the_same_headers_events_as_they_come_too(tmp_path: Path) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        for path in ("/api/v1/status", "/api/v1/events", "/", "/page/page.js", "/page/none.js", "/livez"):
            async with it.http.session.get(path) as response:
                assert response.headers["Server"] == "tunnels", path
                assert "default-src 'none'" in response.headers["Content-Security-Policy"], path
                assert response.headers["X-Content-Type-Options"] == "nosniff", path
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin", path
                assert response.headers["Referrer-Policy"] == "no-referrer", path
                assert response.headers["Cache-Control"] == "no-store", path


async def test_beyond_loopback_the_status_is_shown_only_when_asked_for(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    address = own_address()
    text = file(sshd, local("echo", free_port(), echo.port))
    async with whole(tmp_path, text, listen=f"{address}:0") as it:
        await it.tunnels.all_up()
        assert (await it.http.text("/readyz"))[0] == 200
        assert (await it.http.text("/metrics"))[0] == 200
        for path in ("/", "/api/v1/status", "/api/v1/events"):
            assert (await it.http.text(path))[0] == 403
        exposed = Endpoints(listen=f"{address}:0", control="none", expose_status=True)
        async with serving(it.tunnels.app, exposed) as served, client_of(address=served.listen) as http:
            assert (await http.text("/api/v1/status"))[0] == 200


async def test_a_taken_port_is_a_warning_unless_it_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        monkeypatch.setattr("reconciler.runtime.endpoints.DEFAULT_LISTEN", address)
        async with running(tmp_path, "targets: {}\n") as tunnels:
            async with serving(tunnels.app, Endpoints(control="none")) as served:
                assert served.listen == ""
            assert f"cannot listen on {address}" in caplog.text
            with pytest.raises(EndpointError, match="in use"):
                async with serving(tunnels.app, Endpoints(listen=address, control="none")):
                    pass


@contextlib.asynccontextmanager
async def served(limit: int, patience: float = 60.0) -> AsyncIterator[tuple[Serving, int]]:
    """A server and its port. `/` is answered at once, `/hold` never."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def hold(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/hold", hold)
    sock = socket.create_server(("127.0.0.1", 0))
    server = Serving(app, limit=limit, patience=patience)
    await server.start([sock])
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.stop()


def ask(writer: asyncio.StreamWriter, path: str) -> None:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


async def answered(reader: asyncio.StreamReader) -> bytes:
    """The first line of an answer."""
    return await asyncio.wait_for(reader.readline(), WITHIN)


async def test_clients_that_say_nothing_are_sent_away() -> None:
    async with served(limit=2, patience=0.3) as (_, port):
        async with connected("127.0.0.1", port) as (mute, _), connected("127.0.0.1", port) as (slow, dripping):
            dripping.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
            assert await ended(mute)
            assert await ended(slow)
        async with client_of(address=f"127.0.0.1:{port}") as http:

            async def is_served() -> bool:
                try:
                    return await http.text("/") == (200, "hello")
                except aiohttp.ClientError:
                    return False  # who is slow to ask on a slow machine is sent away too

            await eventually(is_served)


async def test_one_too_many_takes_the_place_of_who_has_waited_longest_for_nothing() -> None:
    async with (
        served(limit=3) as (server, port),
        connected("127.0.0.1", port) as (held, holding),
        connected("127.0.0.1", port) as (mute, _),
        connected("127.0.0.1", port) as (kept, keeping),
    ):
        ask(holding, "/hold")
        ask(keeping, "/")
        assert await answered(kept) == b"HTTP/1.1 200 OK\r\n"
        await eventually(lambda: len(server._idle_since) == 2)
        for gone in (mute, kept):
            async with connected("127.0.0.1", port) as (new, asking):
                ask(asking, "/")
                assert await answered(new) == b"HTTP/1.1 200 OK\r\n"
                assert await ended(gone)
                ask(asking, "/hold")
                await eventually(lambda: len(server.connections) - len(server._idle_since) == 2)
                assert not held.at_eof()


async def test_where_all_are_being_answered_the_oldest_makes_room() -> None:
    async with (
        served(limit=2) as (server, port),
        connected("127.0.0.1", port) as (first, one),
        connected("127.0.0.1", port) as (second, two),
    ):
        ask(one, "/hold")
        ask(two, "/hold")
        await eventually(lambda: len(server.connections) == 2 and not server._idle_since)
        async with connected("127.0.0.1", port) as (third, three):
            ask(three, "/")
            assert await answered(third) == b"HTTP/1.1 200 OK\r\n"
            assert await ended(first)
            assert len(server.connections) == 2
            assert not second.at_eof()


async def test_followers_of_events_cannot_keep_the_probes_of_kubernetes_out(tmp_path: Path) -> None:
    async with whole(tmp_path, "targets: {}\n") as it, contextlib.AsyncExitStack() as stack:
        host, _, port = it.served.listen.rpartition(":")
        statuses = []
        for _ in range(LIMIT):
            reader, writer = await stack.enter_async_context(connected(host, int(port)))
            ask(writer, "/api/v1/events")
            statuses.append((await answered(reader)).split()[1])
        assert statuses == [b"200"] * MOST + [b"503"] * (LIMIT - MOST)
        assert await it.http.text("/livez") == (200, "ok\n")
        status, said = await it.http.text("/api/v1/events")
        assert (status, said) == (
            503,
            f"too many event subscribers (limit {MOST}): try again when one of them has left\n",
        )


async def test_one_who_stops_following_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.report.event_stream.MOST", 1)
    async with whole(tmp_path, "targets: {}\n") as it:

        async def status() -> int:
            async with it.http.session.get("/api/v1/events") as response:
                return response.status

        async with it.http.session.get("/api/v1/events") as following:
            assert following.status == 200
            assert await status() == 503
            async with it.control.session.get("/api/v1/events?follow=1") as other:
                assert other.status == 200, "the control socket is for its owner alone, and counts for itself"
                refused = await it.control.get("/api/v1/events", status=503, follow="1")
                assert refused["error"].startswith("too many event subscribers (limit 1)")

        async def is_taken() -> bool:
            return await status() == 200

        await eventually(is_taken)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["two hosts", "a long header", "two lengths", "no chunk", "TLS"],
)
async def test_what_is_not_http_is_refused_in_few_words(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "reconciler")
    async with served(limit=2) as (_, port), connected("127.0.0.1", port) as (reader, writer):
        writer.write(request_)
        answer = await asyncio.wait_for(reader.read(), WITHIN)
        assert answer.startswith(b"HTTP/1.0 400 ")
        assert b"\r\nServer: tunnels\r\n" in answer
        assert b"aiohttp" not in answer
    [record] = [record for record in caplog.records if record.name != "asyncio"]
    assert (record.levelname, record.exc_info) == ("DEBUG", None)
    assert record.getMessage().startswith("Error handling request from 127.0.0.1: ")
    assert len(record.getMessage()) < 130
    assert "secret" not in record.getMessage()


async def test_a_body_that_is_not_what_it_says_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "reconciler")
    async with served(limit=2) as (_, port), connected("127.0.0.1", port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
        assert await answered(reader) == b"HTTP/1.1 200 OK\r\n"
        await ended(reader)
    [record] = [record for record in caplog.records if record.name != "asyncio"]
    assert (record.levelname, record.exc_info) == ("DEBUG", None)
    assert record.getMessage() == "Unhandled exception: RequestPayloadError"


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(WITHIN):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    return True


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has loopback only")
        return str(probe.getsockname()[0])
