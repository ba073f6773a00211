"""The HTTP endpoints: access, liveness, readiness, and misbehaving clients."""

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
from reconciler.report.event_stream import SUBSCRIBERS_MAX
from reconciler.report.http_routes import is_host_allowed, liveness_failure
from reconciler.report.http_server import LIMIT, Serving
from reconciler.report.snapshot import Liveness
from reconciler.runtime.endpoints import EndpointError, Endpoints, serving
from support.endpoints import client_of, whole
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, running, target
from support.wait import WITHIN, eventually, free_port


async def test_readyz_names_each_critical_tunnel_that_is_not_up(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = (
        file(sshd, local("echo", free_port(), echo.port), local("off", free_port(), echo.port, enabled="false"))
        + target(sshd, "dead", port=free_port())
        + local("vital", free_port(), echo.port)
        + local("minor", free_port(), echo.port, critical="false")
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("dead/vital", Phase.DOWN)
        await it.tunnels.until("server/echo", Phase.UP)
        status, body = await it.http.text("/readyz")
        assert status == 503
        assert body.startswith("dead/vital is down (refused): ")
        assert body.count("\n") == 1, "a tunnel that is off or not critical does not count"
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


@pytest.mark.parametrize(
    ("last_pass_age", "max_lag", "second_max_lag", "failure"),
    [
        (1.0, 0.0, 0.0, ""),
        (None, 0.0, 0.0, ""),  # the process is starting
        (100.0, 0.0, 0.0, "the last pass of the reconcile loop was 100 s ago"),
        (1.0, 12.0, 11.0, "the event loop lags by 11 s"),
        (1.0, 60.0, 0.2, ""),  # the process was stopped once and continues
    ],
)
def test_a_reconcile_loop_that_hangs_fails_the_liveness_check(
    last_pass_age: float | None, max_lag: float, second_max_lag: float, failure: str
) -> None:
    assert liveness_failure(Liveness(last_pass_age, max_lag, second_max_lag, ending=False)) == failure


async def test_host_names_that_could_be_rebound_are_refused(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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
def test_which_host_headers_are_allowed(header: str, allowed: bool) -> None:
    assert is_host_allowed(header, ("Named.example.com",)) is allowed


async def test_it_is_read_only_and_closed_to_other_sites(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_the_status_page_loads_nothing_from_other_hosts(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_every_response_has_the_security_headers(tmp_path: Path) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        for path in ("/api/v1/status", "/api/v1/events", "/", "/page/page.js", "/page/none.js", "/livez"):
            async with it.http.session.get(path) as response:
                assert response.headers["Server"] == "tunnels", path
                assert "default-src 'none'" in response.headers["Content-Security-Policy"], path
                assert response.headers["X-Content-Type-Options"] == "nosniff", path
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin", path
                assert response.headers["Referrer-Policy"] == "no-referrer", path
                assert response.headers["Cache-Control"] == "no-store", path


async def test_beyond_loopback_the_status_needs_expose_status(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_a_taken_port_is_a_warning_unless_it_is_explicit(
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
async def served(limit: int, idle_timeout: float = 60.0) -> AsyncIterator[tuple[Serving, int]]:
    """Run a server. It answers `/` at once, `/hold` never."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def hold(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/hold", hold)
    sock = socket.create_server(("127.0.0.1", 0))
    server = Serving(app, limit=limit, idle_timeout=idle_timeout)
    await server.start([sock])
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.stop()


def ask(writer: asyncio.StreamWriter, path: str) -> None:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Return the first line of the response."""
    return await asyncio.wait_for(reader.readline(), WITHIN)


async def test_idle_clients_are_disconnected() -> None:
    async with served(limit=2, idle_timeout=0.3) as (_, port):
        async with connected("127.0.0.1", port) as (mute, _), connected("127.0.0.1", port) as (slow, dripping):
            dripping.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
            assert await ended(mute)
            assert await ended(slow)
        async with client_of(address=f"127.0.0.1:{port}") as http:

            async def is_served() -> bool:
                try:
                    return await http.text("/") == (200, "hello")
                except aiohttp.ClientError:
                    return False  # on a slow machine this client may be idle for too long too

            await eventually(is_served)


async def test_above_the_limit_a_new_client_replaces_the_longest_idle_one() -> None:
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


async def test_without_an_idle_client_the_oldest_is_replaced() -> None:
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


async def test_event_subscribers_cannot_lock_out_health_checks(tmp_path: Path) -> None:
    async with whole(tmp_path, "targets: {}\n") as it, contextlib.AsyncExitStack() as stack:
        host, _, port = it.served.listen.rpartition(":")
        statuses = []
        for _ in range(LIMIT):
            reader, writer = await stack.enter_async_context(connected(host, int(port)))
            ask(writer, "/api/v1/events")
            statuses.append((await answered(reader)).split()[1])
        assert statuses == [b"200"] * SUBSCRIBERS_MAX + [b"503"] * (LIMIT - SUBSCRIBERS_MAX)
        assert await it.http.text("/livez") == (200, "ok\n")
        status, body = await it.http.text("/api/v1/events")
        assert (status, body) == (
            503,
            f"too many event subscribers (limit {SUBSCRIBERS_MAX}): try again when one of them has left\n",
        )


async def test_a_subscriber_that_leaves_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.report.event_stream.SUBSCRIBERS_MAX", 1)
    async with whole(tmp_path, "targets: {}\n") as it:

        async def status() -> int:
            async with it.http.session.get("/api/v1/events") as response:
                return response.status

        async with it.http.session.get("/api/v1/events") as following:
            assert following.status == 200
            assert await status() == 503
            async with it.control.session.get("/api/v1/events?follow=1") as other:
                assert other.status == 200, "the control socket has a limit of its own"
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
async def test_malformed_requests_are_refused_without_a_traceback(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
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


async def test_a_body_with_a_wrong_encoding_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
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
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has loopback only")
        return str(probe.getsockname()[0])
