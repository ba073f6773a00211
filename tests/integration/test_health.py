"""Probes through tunnels: results, reaction time, and links that they replace."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from reconciler.core.spec import FarTcp
from reconciler.ssh.link import channel_stream
from support.asyncssh_server import AsyncsshServer
from support.dropbear import Dropbear
from support.services import EchoServer, TcpService, connected, exchange
from support.sshd import Sshd
from support.tunnels import Server, file, local, remote, running, target, tunnel
from support.wait import eventually, free_port

QUICK = "interval: 100ms, timeout: 20s, failureThreshold: 2"
TCP = f"{{type: tcp, {QUICK}}}"
HTTP = f"{{type: http, path: /health, {QUICK}}}"


class Web(TcpService):
    """An HTTP server that answers with this status, or not at all (0)."""

    def __init__(self, *, path: Path | None = None) -> None:
        super().__init__(path=path)
        self.status = 200

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readline()).strip():
            pass
        if not self.status:
            await reader.read()
            return
        writer.write(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % self.status)
        await writer.drain()


@pytest.fixture(params=["openssh", "dropbear"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Sshd | Dropbear = request.getfixturevalue("sshd" if request.param == "openssh" else "dropbear")
    return found


@pytest.mark.parametrize("kind", [local, remote])
async def test_a_tcp_probe_notices_a_service_that_stops_and_comes_back(
    server: Server, tmp_path: Path, kind: object
) -> None:
    line = {local: local, remote: remote}[kind]  # type: ignore[index]
    async with EchoServer() as service:
        async with running(tmp_path, file(server, line("db", free_port(), service.port, health=TCP))) as tunnels:
            await tunnels.all_up()
            service.stop_listening()
            verdict = await tunnels.until("server/db", Phase.UNHEALTHY)
            assert verdict.reason == "probe"
            assert str(service.port) in verdict.message
            await service.start()
            verdict = await tunnels.until("server/db", Phase.UP)
            assert verdict.reason is None


async def test_a_probe_cancelled_as_its_channel_opens_leaves_no_channel(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, file(sshd, local("db", free_port(), echo.port))) as tunnels:
        await tunnels.all_up()
        [link] = tunnels.links
        opened = channel_stream._Buffers.opened

        def given_up(handler: channel_stream._Buffers) -> None:
            opened(handler)
            probe.cancel()

        monkeypatch.setattr(channel_stream._Buffers, "opened", given_up)
        probe = asyncio.create_task(link.open_stream(FarTcp("server", "127.0.0.1", echo.port)))
        await asyncio.wait({probe})
        assert probe.cancelled()
        await tunnels.no_client_is_connected()


@pytest.mark.parametrize("kind", [local, remote])
async def test_an_http_probe_expects_a_success_status(server: Server, tmp_path: Path, kind: object) -> None:
    line = {local: local, remote: remote}[kind]  # type: ignore[index]
    async with Web() as web:
        async with running(tmp_path, file(server, line("web", free_port(), web.port, health=HTTP))) as tunnels:
            await tunnels.all_up()
            web.status = 503
            await eventually(lambda: "503" in getattr(tunnels.verdict("server/web"), "message", ""))
            verdict = await tunnels.until("server/web", Phase.UNHEALTHY)
            assert verdict.reason == "probe"
            assert "GET /health" in verdict.message
            web.status = 204
            await tunnels.until("server/web", Phase.UP)


async def test_a_missing_answer_fails_the_probe(sshd: Sshd, tmp_path: Path) -> None:
    health = "{type: http, path: /health, interval: 100ms, timeout: 200ms, failureThreshold: 1}"
    async with Web() as web:
        async with running(tmp_path, file(sshd, local("web", free_port(), web.port, health=health))) as tunnels:
            await tunnels.all_up()
            web.status = 0
            verdict = await tunnels.until("server/web", Phase.UNHEALTHY)
            assert verdict.reason == "probe"
            assert "200 ms" in verdict.message or "0.2 s" in verdict.message
            web.status = 200
            await tunnels.until("server/web", Phase.UP)


async def test_unix_sockets_are_probed_on_either_side(sshd: Sshd, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    async with Web(path=path) as web:
        lines = tunnel("out", "local", localPort=free_port(), remoteSocket=path, health=HTTP) + tunnel(
            "back", "remote", remotePort=free_port(), localSocket=path, health=HTTP
        )
        async with running(tmp_path, file(sshd, lines)) as tunnels:
            await tunnels.all_up()
            await eventually(lambda: web.total > 2)
            web.status = 500
            await tunnels.until("server/out", Phase.UNHEALTHY)
            await tunnels.until("server/back", Phase.UNHEALTHY)


async def test_a_failing_probe_marks_its_tunnel_and_cuts_no_client(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    sick, well = free_port(), free_port()
    async with Web() as web:
        lines = local("sick", sick, web.port, health=HTTP) + local("well", well, echo.port)
        async with running(tmp_path, file(sshd, lines)) as tunnels:
            await tunnels.all_up()
            async with connected("127.0.0.1", well) as (reader, writer):
                web.status = 503
                await tunnels.until("server/sick", Phase.UNHEALTHY)
                assert tunnels.phases()["server/well"] is Phase.UP
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                answer = await exchange("127.0.0.1", sick, b"GET / HTTP/1.0\r\n\r\n")
                assert b"503" in answer, "clients are not kept away from it"


async def test_a_new_link_is_probed_at_once(sshd: Sshd, tmp_path: Path) -> None:
    """The result of a link that is gone must not last for the interval of an hour."""
    health = "{type: tcp, interval: 1h, timeout: 20s, failureThreshold: 1}"
    async with EchoServer() as service:
        async with running(tmp_path, file(sshd, local("db", free_port(), service.port, health=health))) as tunnels:
            await eventually(lambda: service.total == 1)
            await tunnels.all_up()
            service.stop_listening()
            await sshd.restart()
            await tunnels.until("server/db", Phase.UNHEALTHY)
            await service.start()
            await sshd.restart()
            await tunnels.until("server/db", Phase.UP)


async def test_an_edited_probe_runs_at_once_and_a_removed_one_stops(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    hourly = "{type: http, path: %s, interval: 1h, timeout: 20s, failureThreshold: 1}"
    async with Web() as web:
        web.status = 404
        async with running(tmp_path, file(sshd, local("web", port, web.port, health=hourly % "/a"))) as tunnels:
            verdict = await tunnels.until("server/web", Phase.UNHEALTHY)
            assert "/a" in verdict.message
            tunnels.edit(file(sshd, local("web", port, web.port, health=hourly % "/b")))
            await eventually(lambda: "/b" in getattr(tunnels.verdict("server/web"), "message", ""))
            tunnels.edit(file(sshd, local("web", port, web.port)))
            await tunnels.until("server/web", Phase.UP)


async def test_on_failure_reconnect_replaces_the_link_and_cuts_no_client(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    """The probe fails over one link and succeeds over the next."""
    port, other = free_port(), free_port()
    health = "{type: tcp, interval: 100ms, timeout: 1s, failureThreshold: 2, onFailure: reconnect}"
    async with EchoServer() as service:
        lines = local("sick", port, service.port, health=health) + local("other", other, echo.port)
        async with running(tmp_path, file(asyncssh_server, lines)) as tunnels:
            await tunnels.all_up()
            [old] = tunnels.links
            async with connected("127.0.0.1", other) as (reader, writer):
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                asyncssh_server.never_answer_channel(service.address)
                await tunnels.until("server/sick", Phase.UNHEALTHY)
                await eventually(lambda: tunnels.links[-1] is not old, message="there is a new link")
                asyncssh_server.answer_normally()
                await tunnels.until("server/sick", Phase.UP)
                writer.write(b"y")
                assert await reader.readexactly(1) == b"y"
                assert old in tunnels.links
            await eventually(lambda: old not in tunnels.links, message="the old link ends with its last client")
            assert len(tunnels.links) == 1, "and it is not replaced again and again"


async def test_a_removed_target_leaves_no_record(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    health = "{type: tcp, interval: 50ms, timeout: 2s, failureThreshold: 1, onFailure: reconnect}"
    sick = target(asyncssh_server, "sick") + local("db", free_port(), free_port(), health=health)
    rest = target(asyncssh_server, "rest") + local("echo", free_port(), echo.port)
    async with running(tmp_path, "targets:\n" + sick + rest) as tunnels:
        records = tunnels.engine.actuator.records
        await eventually(lambda: records.target("sick").restarted_at > 0, message="the probe restarted the target")
        tunnels.edit("targets:\n" + rest)
        await eventually(lambda: [target.name for target in records.targets()] == ["rest"])
        await eventually(lambda: [tunnel.id for tunnel in records.tunnels()] == ["rest/echo"])


async def test_probes_leave_nothing_behind_and_do_not_count_as_clients(sshd: Sshd, tmp_path: Path) -> None:
    async with Web() as web:
        health = "{type: http, path: /, interval: 50ms, timeout: 2s, failureThreshold: 2}"
        async with running(tmp_path, file(sshd, local("web", free_port(), web.port, health=health))) as tunnels:
            await eventually(lambda: web.total > 20)
            tunnels.edit(file(sshd, local("web", free_port(), web.port)))
            await tunnels.no_client_is_connected()
            assert tunnels.meter("server/web").results == {}
            assert (tunnels.meter("server/web").sent, tunnels.meter("server/web").received) == (0, 0)


async def test_unanswered_probe_channels_are_freed_when_the_server_gives_up(
    asyncssh_server: AsyncsshServer, tmp_path: Path
) -> None:
    port = free_port()
    health = "{type: tcp, interval: 50ms, timeout: 100ms, failureThreshold: 1}"
    async with EchoServer() as service:
        without = file(asyncssh_server, local("db", port, service.port))
        async with running(tmp_path, without) as tunnels:
            await tunnels.all_up()
            async with tunnels.nothing_left_behind():
                asyncssh_server.never_answer_channel(service.address)
                tunnels.edit(file(asyncssh_server, local("db", port, service.port, health=health)))
                await tunnels.until("server/db", Phase.UNHEALTHY)
                await eventually(lambda: len(asyncssh_server.requests) > 10)
                asyncssh_server.answer_normally()
                tunnels.edit(without)
                await tunnels.until("server/db", Phase.UP)
                await asyncssh_server.drop_connections()
                await tunnels.until("server/db", Phase.UP)


async def test_no_probe_runs_while_the_link_is_down(sshd: Sshd, tmp_path: Path) -> None:
    async with EchoServer() as service:
        async with running(tmp_path, file(sshd, local("db", free_port(), service.port, health=TCP))) as tunnels:
            await tunnels.all_up()
            await sshd.stop()
            verdict = await tunnels.until("server/db", Phase.DOWN)
            assert verdict.reason in ("closed_by_server", "refused")
            records = tunnels.engine.actuator.records
            probes, failures = records.target("server").probes, records.tunnel("server/db").failures
            before = probes.frozen(), dict(failures)
            await asyncio.sleep(0.5)  # five of its intervals
            assert (probes.frozen(), dict(failures)) == before
            await sshd.start()
            await tunnels.until("server/db", Phase.UP)
