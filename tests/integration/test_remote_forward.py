"""Remote forwards: listeners on the server, destinations here, and what each server reports about them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.actions import Action, Open
from reconciler.core.observed import Phase, Reason
from reconciler.ssh.channels.window import WindowBudget
from reconciler.ssh.link.link import Link
from support.asyncssh_server import AsyncsshServer
from support.dropbear import Dropbear
from support.faults import Blackhole, TcpProxy
from support.services import EchoServer, GreetingServer, RefusingPort, connected, exchange, refuses
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, target, tunnel
from support.wait import eventually, free_port


class LateFirst(TcpProxy):
    """A server whose first connection waits until it is released."""

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__(target_host, target_port)
        self.first_may_go_on = asyncio.Event()
        self._numbers = itertools.count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(self._numbers) == 0:
            await self.first_may_go_on.wait()
        await super().serve(reader, writer)


async def test_a_remote_listener_returns_after_a_server_restart(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        for _ in range(3):
            await sshd.restart()
            await eventually(partial(answers, port))
        await tunnels.all_up()


async def test_a_remote_listener_returns_after_a_dropbear_restart(
    dropbear: Dropbear, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(dropbear, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        await dropbear.restart()
        await eventually(partial(answers, port))


async def test_an_edit_moves_the_listener_to_another_port(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    old, new = free_port(), free_port()
    async with running(tmp_path, file(sshd, remote("back", old, echo.port))) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", old) as (reader, writer):
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            tunnels.edit(file(sshd, remote("back", new, echo.port)))
            await eventually(partial(answers, new))
            await eventually(partial(refuses, old))
            writer.write(b"2")  # its client may finish
            assert await reader.readexactly(1) == b"2"


async def test_windows_of_remote_clients_come_from_the_budget_of_the_link(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """The server decides how many clients there are."""
    port, many = free_port(), 150
    async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        [link] = tunnels.links
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(many):
                await clients.enter_async_context(connected("127.0.0.1", port))
            await eventually(lambda: len(link.channels) == many)
            assert 0 < link.channels.reserved <= WindowBudget().total // 2
        await eventually(lambda: link.channels.reserved == 0)


async def test_a_changed_destination_keeps_the_listener(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with GreetingServer("old") as old, GreetingServer("new") as new:
        async with running(tmp_path, file(sshd, remote("back", port, old.port))) as tunnels:
            await tunnels.all_up()
            assert await exchange("127.0.0.1", port, b"") == b"old"
            tunnels.edit(file(sshd, remote("back", port, new.port)))

            async def leads_to_the_new() -> bool:
                return await exchange("127.0.0.1", port, b"") == b"new"  # it is never refused

            await eventually(leads_to_the_new)


async def test_a_new_link_takes_the_listener_over_and_live_clients_stay(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """Make before break: settings change in place, another access needs a new link."""
    port = free_port()
    async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            old = tunnels.links[0]
            tunnels.restart("server")
            await eventually(lambda: tunnels.links[-1] is not old)
            await eventually(partial(answers, port))
            await tunnels.all_up()
            writer.write(b"2")
            assert await reader.readexactly(1) == b"2"
            [flow] = [flow for flow in tunnels.engine.actuator.observe().flows if flow.key.link == old.number]
            assert flow.count == 1
        await eventually(lambda: old not in tunnels.links, message="the old link ends with its last client")
        assert await answers(port)


async def test_port_0_shows_the_port_that_the_server_assigned(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    written = tmp_path / "port"
    line = remote("back", 0, echo.port, portFile=written)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/back")
        assert port > 0
        assert written.read_text() == f"{port}\n"
        assert await answers(port)


async def test_an_assigned_port_is_requested_again_by_number(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with running(tmp_path, file(sshd, remote("back", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/back")
        await sshd.restart()
        await eventually(partial(answers, port))
        await tunnels.all_up()
        assert tunnels.bound_port("server/back") == port


async def test_two_tunnels_may_use_port_0_on_one_server(sshd: Sshd, tmp_path: Path) -> None:
    async with GreetingServer("one") as one, GreetingServer("two") as two:
        async with running(tmp_path, file(sshd, remote("one", 0, one.port), remote("two", 0, two.port))) as tunnels:
            await tunnels.all_up()
            for name in ("one", "two"):
                assert await exchange("127.0.0.1", tunnels.bound_port(f"server/{name}"), b"") == name.encode()


async def test_a_failed_dial_closes_the_remote_client_and_is_counted(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    with RefusingPort() as dead:
        async with running(tmp_path, file(sshd, remote("back", port, dead.port))) as tunnels:
            await tunnels.all_up()
            async with tunnels.nothing_left_behind():
                for _ in range(3):
                    assert await seen_closed(port)
            verdict = await tunnels.until("server/back", Phase.UNHEALTHY)
            assert verdict.reason == "destination"
            assert f"127.0.0.1:{dead.port} refuses connections" in verdict.message
            assert tunnels.results("server/back") == {"dial_failed": 3}


async def test_a_refusal_on_both_ip_versions_is_reported_as_refused(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    with RefusingPort() as dead:
        line = tunnel("back", "remote", remotePort=port, localHost="localhost", localPort=dead.port)
        async with running(tmp_path, file(sshd, line)) as tunnels:
            await tunnels.all_up()
            for _ in range(3):
                assert await seen_closed(port)
            verdict = await tunnels.until("server/back", Phase.UNHEALTHY)
            assert f"localhost:{dead.port} refuses connections" in verdict.message


async def test_a_dial_of_a_silent_local_destination_times_out(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    with Blackhole() as hole:
        async with running(tmp_path, file(sshd, remote("back", port, hole.port), dialTimeout="300ms")) as tunnels:
            await tunnels.all_up()
            async with tunnels.nothing_left_behind():
                assert await seen_closed(port)
            assert tunnels.results("server/back") == {"dial_failed": 1}


async def test_clients_that_are_being_dialled_count_for_the_limit(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    with Blackhole() as hole:
        line = remote("back", port, hole.port, maxConnections=2)
        async with running(tmp_path, file(sshd, line, dialTimeout="4s")) as tunnels:
            await tunnels.all_up()
            await asyncio.gather(*(seen_closed(port) for _ in range(5)))
            assert tunnels.results("server/back") == {"limit": 3, "dial_failed": 2}


async def test_a_taken_remote_port_is_reported_and_bound_when_free(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    squatter = socket.create_server(("127.0.0.1", port))
    async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
        verdict = await tunnels.until("server/back", Phase.DOWN)
        assert verdict.reason == "remote_port_in_use"
        assert failures(tunnels, "server/back").keys() == {"remote_port_in_use"}
        squatter.close()
        await tunnels.until("server/back", Phase.UP)
        assert await answers(port)


async def test_a_standby_waits_for_the_port_and_takes_over(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    line = remote("back", port, echo.port, onConflict="standby")
    async with running(directory(tmp_path, "first"), file(sshd, line)) as first:
        await first.all_up()
        async with running(directory(tmp_path, "second"), file(sshd, line)) as second:
            verdict = await second.until("server/back", Phase.STANDBY)
            assert verdict.reason is None
            assert first.phases() == {"server/back": Phase.UP}
            first.app.end()
            await second.until("server/back", Phase.UP)
            assert await answers(port)
            assert failures(second, "server/back") == {}, "to wait for the other one is what it is for"


async def test_a_server_that_forbids_listening_is_named_as_the_cause(tmp_path: Path) -> None:
    async with Sshd(tmp_path / "sshd", options={"AllowTcpForwarding": "local"}) as sshd:
        async with running(tmp_path, file(sshd, remote("back", free_port(), 1))) as tunnels:
            verdict = await tunnels.until("server/back", Phase.DOWN)
            assert verdict.reason == "forbidden_by_server"
            assert "AllowTcpForwarding" in verdict.message
            assert verdict.needs_action


async def test_a_new_link_clears_the_refusal_of_the_old_one(tmp_path: Path) -> None:
    async with Sshd(tmp_path / "sshd", options={"AllowTcpForwarding": "no"}) as sshd:
        async with running(tmp_path, file(sshd, remote("back", free_port(), 9))) as tunnels:
            verdict = await tunnels.until("server/back", Phase.DOWN)
            assert verdict.reason == "forbidden_by_server"
            await sshd.stop()
            reasons = {"refused", "closed_by_server"}
            await eventually(lambda: getattr(tunnels.verdict("server/back"), "reason", None) in reasons)
            sshd.options["AllowTcpForwarding"] = "yes"
            await sshd.start()
            await tunnels.all_up()


async def test_a_standby_reports_down_if_listening_is_forbidden(tmp_path: Path) -> None:
    async with Sshd(tmp_path / "sshd", options={"DisableForwarding": "yes"}) as sshd:
        line = remote("back", free_port(), 1, onConflict="standby")
        async with running(tmp_path, file(sshd, line)) as tunnels:
            verdict = await tunnels.until("server/back", Phase.DOWN)
            assert verdict.reason == "forbidden_by_server"


async def test_a_server_that_binds_all_interfaces_is_detected(tmp_path: Path, echo: EchoServer) -> None:
    port = free_port()
    async with Sshd(tmp_path / "sshd", options={"GatewayPorts": "yes"}) as sshd:
        async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
            await tunnels.all_up()
            await eventually(lambda: listens_on(port) == {"0.0.0.0"})
            assert tunnels.bound("server/back") == f"*:{port}"


async def test_status_warns_if_the_server_may_bind_loopback_only(sshd: Sshd, tmp_path: Path) -> None:
    """OpenSSH reports success and listens on loopback only, without a message: the status says so."""
    port = free_port()
    async with running(tmp_path, file(sshd, remote("back", port, 1, remoteHost="0.0.0.0"))) as tunnels:
        verdict = await tunnels.until("server/back", Phase.UP)
        await eventually(lambda: listens_on(port) == {"127.0.0.1"})
        assert "GatewayPorts" in verdict.message


async def test_gatewayports_clientspecified_binds_the_requested_address(tmp_path: Path, echo: EchoServer) -> None:
    port = free_port()
    async with Sshd(tmp_path / "sshd", options={"GatewayPorts": "clientspecified"}) as sshd:
        async with running(tmp_path, file(sshd, remote("back", port, echo.port, remoteHost="0.0.0.0"))) as tunnels:
            await tunnels.all_up()
            await eventually(lambda: listens_on(port) == {"0.0.0.0"})
            assert await answers(port)


async def test_a_tunnel_switched_off_and_on_again_gets_its_port_back(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        tunnels.edit(file(sshd, remote("back", port, echo.port, enabled="false")))
        await tunnels.until("server/back", Phase.OFF)
        await eventually(partial(refuses, port))
        tunnels.edit(file(sshd, remote("back", port, echo.port)))
        await tunnels.until("server/back", Phase.UP)
        assert await answers(port)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_link_lost_during_a_listen_request_is_no_refusal(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    port, lost = free_port(), list[Link]()
    async with running(tmp_path, file(sshd, remote("back", port, echo.port))) as tunnels:
        apply = tunnels.engine.actuator.apply

        def lose_the_first(action: Action) -> None:
            is_first = isinstance(action, Open) and not lost
            lost.extend(tunnels.links if is_first else ())
            if is_first and when == "before":
                lost[0].connection.abort()
            apply(action)
            if is_first and when == "after":
                lost[0].connection.abort()

        monkeypatch.setattr(tunnels.engine.actuator, "apply", lose_the_first)
        await tunnels.all_up()
        assert lost
        assert await answers(port)
        assert not tunnels.engine.actuator.records.tunnel("server/back").failures
    gc.collect()  # Python warns about an unawaited coroutine when it is collected


async def test_a_rename_during_the_dial_moves_the_client(sshd: Sshd, tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "full.sock"

    def text(name: str) -> str:
        fields = {"remoteHost": "127.0.0.1", "remotePort": port, "localSocket": path, "drainTimeout": "0s"}
        return file(sshd, tunnel(name, "remote", **fields))

    with socket.socket(socket.AF_UNIX) as service, socket.socket(socket.AF_UNIX) as other:
        service.bind(str(path))
        service.listen(0)
        other.connect(str(path))  # the queue is full
        async with running(tmp_path, text("old")) as tunnels:
            await tunnels.all_up()
            async with connected("127.0.0.1", port) as (reader, writer):
                await eventually(
                    lambda: [client.tunnel.id for client in tunnels.engine.actuator.connections()] == ["server/old"]
                )
                tunnels.edit(text("new"))
                await tunnels.all_up("server/new")
                service.accept()[0].close()
                await eventually(lambda: tunnels.meter("server/new").active == 1)
                with service.accept()[0] as accepted:
                    accepted.sendall(b"hello")
                assert await reader.read() == b"hello"
                writer.close()
                assert {one.id for one in tunnels.engine.actuator.records.tunnels()} == {"server/new"}


async def test_a_listener_is_reused_on_a_server_that_does_not_cancel(
    dropbear: Dropbear, echo: EchoServer, tmp_path: Path
) -> None:
    """Dropbear refuses to cancel: the port stays bound, and a second request would find it in use."""
    port, other = free_port(), free_port()
    keep = remote("keep", other, echo.port)
    async with running(tmp_path, file(dropbear, keep, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        tunnels.edit(file(dropbear, keep, remote("back", port, echo.port, enabled="false")))
        await tunnels.until("server/back", Phase.OFF)
        assert await seen_closed(port)  # it still listens, and refuses clients
        tunnels.edit(file(dropbear, keep, remote("back", port, echo.port)))
        await tunnels.until("server/back", Phase.UP)
        assert await answers(port)


async def test_the_link_that_still_holds_a_listener_reuses_it(
    dropbear: Dropbear, echo: EchoServer, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    keep, back = local("keep", other, echo.port), remote("back", port, echo.port)
    async with LateFirst(dropbear.host, dropbear.port) as proxy:
        several = {"port": proxy.port, "hostKeys": [dropbear.host_public_key], "sshConnections": 2}
        async with running(tmp_path, file(dropbear, keep, back, **several)) as tunnels:
            await tunnels.all_up()  # on the newer link; new listeners are requested on the older one
            proxy.first_may_go_on.set()
            await eventually(lambda: len(tunnels.links) == 2)
            tunnels.edit(file(dropbear, keep, remote("back", port, echo.port, enabled="false"), **several))
            await tunnels.until("server/back", Phase.OFF)
            tunnels.edit(file(dropbear, keep, back, **several))
            await tunnels.until("server/back", Phase.UP)
            assert await answers(port)


async def test_a_new_link_waits_for_the_old_one_to_release_the_port(
    dropbear: Dropbear, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(dropbear, remote("back", port, echo.port))) as tunnels:
        await tunnels.all_up()
        old = tunnels.links[0]
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            tunnels.restart("server")
            verdict = await tunnels.until("server/back", Phase.DOWN)
            assert verdict.reason == "remote_port_in_use"
            assert "old connection" in verdict.message
            writer.write(b"2")
            assert await reader.readexactly(1) == b"2"
        await tunnels.until("server/back", Phase.UP)
        assert tunnels.links[0] is not old
        assert await answers(port)


async def test_a_failed_listen_request_does_not_affect_other_tunnels(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    kept, asked = free_port(), free_port()
    text = "targets:\n" + target(asyncssh_server) + remote("kept", kept, echo.port)
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        asyncssh_server.refuse_listeners = True
        tunnels.edit(text + remote("asked", asked, echo.port))
        await tunnels.until("server/asked", Phase.DOWN)
        assert await answers(kept)
        asyncssh_server.refuse_listeners = False
        await tunnels.until("server/asked", Phase.UP)


def directory(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def failures(tunnels: Running, tunnel: str) -> Mapping[Reason, int]:
    """Return the counters of the metrics for a tunnel."""
    return next(one.condition.failures for one in tunnels.app.snapshot().tunnels if one.id == tunnel)


async def answers(port: int) -> bool:
    try:
        return await exchange("127.0.0.1", port) == b"ping"
    except OSError:
        return False


async def seen_closed(port: int) -> bool:
    """Return True if a client is accepted and closed without a byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        writer.transport.abort()


def listens_on(port: int) -> set[str]:
    """Return the IPv4 addresses that listen on this port."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    addresses = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {socket.inet_ntoa(bytes.fromhex(host)[::-1]) for host, hexed in addresses if int(hexed, 16) == port}
