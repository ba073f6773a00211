"""The HTTP endpoints: who may see what, liveness and readiness, and clients that misbehave."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest
from aiohttp import web

from reconciler.core.status import Phase
from reconciler.report.http import ailment, is_host_allowed
from reconciler.report.serving import Serving
from reconciler.report.snapshot import Pulse
from reconciler.service import EndpointError, Endpoints, serving
from support.endpoints import client_of, whole
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, running, target
from support.wait import eventually, free_port


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
    assert ailment(Pulse(passed=1.0, lag=0.0, ending=False)) == ""
    assert ailment(Pulse(passed=None, lag=0.0, ending=False)) == "", "it is only starting"
    assert "has not looked for 100 s" in ailment(Pulse(passed=100.0, lag=0.0, ending=False))
    assert "late by 11 s" in ailment(Pulse(passed=1.0, lag=11.0, ending=False))


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
        monkeypatch.setattr("reconciler.service.DEFAULT_LISTEN", address)
        async with running(tmp_path, "targets: {}\n") as tunnels:
            async with serving(tunnels.app, Endpoints(control="none")) as served:
                assert served.listen == ""
            assert f"cannot listen on {address}" in caplog.text
            with pytest.raises(EndpointError, match="in use"):
                async with serving(tunnels.app, Endpoints(listen=address, control="none")):
                    pass


async def test_clients_that_say_nothing_are_sent_away_and_so_are_too_many() -> None:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server = Serving(app, limit=2, patience=0.3)
    await server.start([sock])
    try:
        async with connected("127.0.0.1", port) as (mute, _), connected("127.0.0.1", port) as (slow, dripping):
            dripping.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
            await dripping.drain()
            await eventually(lambda: len(server.connections) == 2)
            async with connected("127.0.0.1", port) as (third, _):
                assert await ended(third), "one too many"
            assert await ended(mute)
            assert await ended(slow)
        async with client_of(address=f"127.0.0.1:{port}") as http:
            assert await http.text("/") == (200, "hello")
    finally:
        await server.stop()


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has loopback only")
        return str(probe.getsockname()[0])
