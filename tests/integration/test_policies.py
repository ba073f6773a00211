"""Policies of a tunnel: rules, limits and timeouts. They change in place and affect only the clients concerned."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.observed import Phase, Reason
from support.asyncssh_server import AsyncsshServer
from support.services import (
    MIB,
    EchoServer,
    GreetingServer,
    SinkSource,
    Streams,
    by_unix,
    connected,
    download,
    exchange,
    refuses,
    upload,
)
from support.sshd import Sshd
from support.tunnels import file, local, remote, running, socks, target, tunnel
from support.wait import WITHIN, eventually, free_port

# --- source rules ------------------------------------------------------------------------------------------------


async def test_sources_are_allowed_and_denied(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    rules = {"allow": "[127.0.0.0/28]", "deny": "[127.0.0.3]"}
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, **rules))) as tunnels:
        await tunnels.all_up()
        for source, let_in in (("127.0.0.1", True), ("127.0.0.2", True), ("127.0.0.3", False), ("127.0.0.77", False)):
            if let_in:
                assert await exchange("127.0.0.1", port, opening=partial(by_tcp_from, source)) == b"ping"
            else:
                assert await is_reset(port, source)
        assert tunnels.results("server/echo") == {"ok": 2, "denied": 2}


async def test_sources_of_a_remote_forward_are_reported_by_the_server(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, remote("back", port, echo.port, deny="[127.0.0.3]"))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", port) == b"ping"
        assert await is_reset(port, "127.0.0.3")
        assert tunnels.results("server/back") == {"ok": 1, "denied": 1}


async def test_an_edit_that_forbids_a_live_client_cuts_only_that_client(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        async with (
            connected("127.0.0.1", port) as (stays, says),
            connected("127.0.0.1", port, partial(by_tcp_from, "127.0.0.2")) as (goes, told),
        ):
            for reader, writer in ((stays, says), (goes, told)):
                writer.write(b"x")
                await reader.readexactly(1)
            tunnels.edit(file(sshd, local("echo", port, echo.port, deny="[127.0.0.2]")))
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(goes.read(1), WITHIN)
            says.write(b"y")
            assert await stays.readexactly(1) == b"y"
        assert await is_reset(port, "127.0.0.2")


async def test_clients_cut_by_an_edit_give_one_log_line_and_one_event(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The line appears also without `audit`: otherwise the reason would not be recorded."""
    caplog.set_level("INFO", "reconciler")
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, audit="false"))) as tunnels:
        await tunnels.all_up()
        async with contextlib.AsyncExitStack() as there:
            for source in ("127.0.0.1", "127.0.0.2", "127.0.0.2"):
                opening = partial(by_tcp_from, source)
                reader, writer = await there.enter_async_context(connected("127.0.0.1", port, opening))
                writer.write(b"x")
                await reader.readexactly(1)
            tunnels.edit(file(sshd, local("echo", port, echo.port, audit="false", deny="[127.0.0.2]")))
            await eventually(lambda: tunnels.meter("server/echo").active == 1)
        [event] = [one for one in tunnels.app.events.since(0)[1] if one.phase == "cut"]
    why = "source 127.0.0.2 is no longer allowed"
    assert (str(event.subject), event.message) == ("tunnel server/echo", f"2 clients: {why}")
    [line] = [record for record in caplog.records if "cut" in record.getMessage()]
    assert line.getMessage() == f"tunnel server/echo: its new rules cut 2 clients: {why}"
    assert (line.levelname, line.tunnel) == ("INFO", "server/echo")  # type: ignore[attr-defined]


async def test_clients_cut_for_many_reasons_give_one_log_line(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        async with contextlib.AsyncExitStack() as there:
            for number in (2, 2, 3, 4, 5):
                opening = partial(by_tcp_from, f"127.0.0.{number}")
                reader, writer = await there.enter_async_context(connected("127.0.0.1", port, opening))
                writer.write(b"x")
                await reader.readexactly(1)
            tunnels.edit(file(sshd, local("echo", port, echo.port, allow="[192.0.2.0/24]")))
            await eventually(lambda: tunnels.meter("server/echo").active == 0)
        [event] = [one for one in tunnels.app.events.since(0)[1] if one.phase == "cut"]
    assert event.message == (
        "5 clients: source 127.0.0.2 is no longer allowed (2 of 5); "
        "source 127.0.0.3 is no longer allowed (1 of 5); "
        "source 127.0.0.4 is no longer allowed (1 of 5); and others"
    )


async def test_an_edit_that_forbids_a_held_client_applies_after_the_hold(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/echo", Phase.DOWN)
        client = asyncio.create_task(is_reset(port, "127.0.0.2"))
        await eventually(lambda: tunnels.meter("server/echo").held == 1)
        tunnels.edit(file(sshd, local("echo", port, echo.port, deny="[127.0.0.2]", description="edited")))
        await eventually(lambda: owner_description(tunnels.engine.actuator.observe().sockets) == "edited")
        await sshd.start()
        assert await client
        assert echo.total == 0


async def test_source_rules_do_not_apply_to_unix_socket_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """File permissions decide which programs may open a unix socket."""
    path = tmp_path / "db.sock"
    line = tunnel("db", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=echo.port, allow="[192.0.2.0/24]")
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"


# --- limits of connections ---------------------------------------------------------------------------------------


async def test_clients_over_the_limit_are_reset_until_one_leaves(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, maxConnections=2))) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer), connected("127.0.0.1", port) as (other, says):
            for at, to in ((reader, writer), (other, says)):
                to.write(b"x")
                assert await at.readexactly(1) == b"x"
            assert await is_reset(port)
            assert await is_reset(port)
        await tunnels.no_client_is_connected()
        assert await exchange("127.0.0.1", port) == b"ping"
        assert tunnels.results("server/echo") == {"ok": 3, "limit": 2}


async def test_as_many_clients_as_the_limit_may_connect_at_once(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """A client whose channel is opening counts once, not as a held and as a live one."""
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, maxConnections=50))) as tunnels:
        await tunnels.all_up()
        there = asyncio.Barrier(50)

        async def client() -> bytes:
            async with connected("127.0.0.1", port) as (reader, writer):
                writer.write(b"x")
                answer = await reader.readexactly(1)
                await there.wait()
                return answer

        assert await asyncio.gather(*(client() for _ in range(50))) == [b"x"] * 50
        assert tunnels.results("server/echo") == {"ok": 50}


async def test_held_clients_count_for_the_limit(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, maxConnections=3))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/echo", Phase.DOWN)
        clients = [asyncio.create_task(exchange("127.0.0.1", port)) for _ in range(3)]
        await eventually(lambda: tunnels.meter("server/echo").held == 3)
        assert await is_reset(port)
        await sshd.start()
        assert await asyncio.gather(*clients) == [b"ping"] * 3
        assert tunnels.results("server/echo") == {"limit": 1, "ok": 3}


# --- timeouts and switching off ----------------------------------------------------------------------------------


async def test_an_idle_client_is_cut_and_a_busy_one_is_not(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, idleTimeout="5s"))) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (busy, says), connected("127.0.0.1", port) as (idle, _):
            cut = asyncio.create_task(idle.read(1))
            while not cut.done():
                says.write(b"x")
                assert await busy.readexactly(1) == b"x"
                await asyncio.sleep(0.1)
            with pytest.raises(ConnectionResetError):
                await cut
            says.write(b"y")
            assert await busy.readexactly(1) == b"y"


async def test_the_idle_timeout_applies_while_a_removed_tunnel_drains(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    keep = local("keep", free_port(), echo.port)
    line = local("echo", port, echo.port, idleTimeout="1s", drainTimeout="1h")
    async with running(tmp_path, file(sshd, keep + line)) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            tunnels.edit(file(sshd, keep))
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), WITHIN)
            assert "server/echo" not in tunnels.engine.desired.tunnels


async def test_a_tunnel_that_expires_closes_its_port_and_lets_its_clients_finish(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    keep = local("keep", free_port(), echo.port)

    def text(end: dt.datetime) -> str:
        glass = local("breakglass", port, echo.port, expiresAt=end.isoformat(timespec="milliseconds"))
        return file(sshd, glass, keep)

    now = dt.datetime.now(dt.UTC)
    async with running(tmp_path, text(now + dt.timedelta(hours=1))) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            end = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=3)
            tunnels.edit(text(end))
            verdict = await tunnels.until("server/breakglass", Phase.DRAINING)
            assert dt.datetime.now(dt.UTC) >= end
            assert "expired" in verdict.message
            await eventually(partial(refuses, port))
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
        verdict = await tunnels.until("server/breakglass", Phase.OFF)
        assert verdict.message == "expired"
        assert tunnels.phases()["server/keep"] is Phase.UP


async def test_a_tunnel_that_has_expired_is_off_from_the_start(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(
        tmp_path, file(sshd, local("old", port, echo.port, expiresAt="2020-01-01T00:00:00Z"))
    ) as tunnels:
        await tunnels.until("server/old", Phase.OFF)
        assert await refuses(port)
        assert tunnels.links == [], "nothing else needs the target"


@pytest.mark.parametrize("what", ["tunnel", "target"])
async def test_a_tunnel_can_be_switched_off_and_on(sshd: Sshd, echo: EchoServer, tmp_path: Path, what: str) -> None:
    port = free_port()
    on = file(sshd, local("echo", port, echo.port))
    fields = {"enabled": "false"}
    off = (
        file(sshd, local("echo", port, echo.port, **fields))
        if what == "tunnel"
        else file(sshd, local("echo", port, echo.port), **fields)
    )
    async with running(tmp_path, off) as tunnels:
        await tunnels.until("server/echo", Phase.OFF)
        assert await refuses(port)
        tunnels.edit(on)
        await tunnels.until("server/echo", Phase.UP)
        assert await exchange("127.0.0.1", port) == b"ping"
        tunnels.edit(off)
        await tunnels.until("server/echo", Phase.OFF)
        await eventually(partial(refuses, port))
        await eventually(lambda: tunnels.links == [])


# --- bandwidth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [upload, download])
async def test_a_bandwidth_limit_holds_for_all_clients_of_a_tunnel_together(
    sshd: Sshd, tmp_path: Path, transfer: object
) -> None:
    port, free = free_port(), free_port()
    async with SinkSource() as service:
        lines = local("slow", port, service.port, bandwidthLimit="4MiB/s") + local("free", free, service.port)
        async with running(tmp_path, file(sshd, lines)) as tunnels:
            await tunnels.all_up()
            move = {upload: upload, download: download}[transfer]  # type: ignore[index]
            began = time.monotonic()
            slow = asyncio.gather(*(move("127.0.0.1", port, 2 * MIB) for _ in range(4)))
            for expected, seen in [await move("127.0.0.1", free, 2 * MIB), *await slow]:
                assert seen == expected
            # The lower bound for 8 MiB at 4 MiB/s, less the burst and one read of each client.
            assert time.monotonic() - began > 1.2


async def test_a_bandwidth_limit_is_changed_and_lifted_in_place(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service:
        slow = file(sshd, local("data", port, service.port, bandwidthLimit="64KiB/s"))
        async with running(tmp_path, slow) as tunnels:
            await tunnels.all_up()
            # This takes an hour at that rate.
            transfer = asyncio.create_task(download("127.0.0.1", port, 200 * MIB))
            await eventually(lambda: tunnels.meter("server/data").received > 100_000)
            tunnels.edit(file(sshd, local("data", port, service.port)))
            expected, seen = await transfer
            assert seen == expected


async def test_a_lifted_bandwidth_limit_ends_a_long_pause(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service:
        async with running(tmp_path, file(sshd, local("data", port, service.port, bandwidthLimit="1KiB/s"))) as tunnels:
            await tunnels.all_up()
            there = asyncio.create_task(upload("127.0.0.1", port, MIB))
            back = asyncio.create_task(download("127.0.0.1", port, MIB))
            # Each side has read once, and its pause is minutes long.
            clients = tunnels.engine.actuator.connections
            await eventually(lambda: sum(max(client.sent, client.received) > 32_000 for client in clients()) == 2)
            tunnels.edit(file(sshd, local("data", port, service.port)))
            async with asyncio.timeout(WITHIN):
                for expected, seen in await asyncio.gather(there, back):
                    assert seen == expected


# --- links -------------------------------------------------------------------------------------------------------


async def test_clients_are_spread_over_four_connections(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port), sshConnections=4)) as tunnels:
        await eventually(lambda: len(tunnels.links) == 4)
        await tunnels.all_up()
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for reader, writer in clients:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert per_link(tunnels.engine.actuator.observe().flows) == [5, 5, 5, 5]
        for _, writer in clients[:10]:  # new clients go to the link with the fewest
            writer.close()
        await eventually(lambda: tunnels.meter("server/echo").active == 10)
        more = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for reader, writer in more:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert per_link(tunnels.engine.actuator.observe().flows) == [5, 5, 5, 5]
        for _, writer in (*clients, *more):
            writer.close()


async def test_the_loss_of_one_link_of_four_cuts_only_its_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port), sshConnections=4)) as tunnels:
        await eventually(lambda: len(tunnels.links) == 4)
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for reader, writer in clients:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        tunnels.links[0].connection.abort()
        await eventually(lambda: tunnels.meter("server/echo").active == 6)
        await eventually(lambda: len(tunnels.links) == 4)
        alive = 0
        for reader, writer in clients:
            try:
                writer.write(b"y")
                alive += await reader.read(1) == b"y"
            except ConnectionError:
                pass
            writer.close()
        assert alive == 6


async def test_on_demand_connects_for_the_first_client_and_disconnects_when_idle(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    text = file(sshd, local("echo", port, echo.port), connect="onDemand", idleTimeout="1s")
    async with running(tmp_path, text) as tunnels:
        await tunnels.until("server/echo", Phase.STANDBY)
        assert sshd.sessions() == 0
        for _ in range(2):
            async with connected("127.0.0.1", port) as (reader, writer):
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                assert len(tunnels.links) == 1
            await eventually(lambda: tunnels.links == [])
            await tunnels.until("server/echo", Phase.STANDBY)
        await eventually(lambda: sshd.sessions() == 0)
        assert tunnels.results("server/echo") == {"ok": 2}


async def test_on_demand_stops_dialling_when_its_held_client_times_out(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    await sshd.stop()
    line = partial(local, "echo", port, echo.port)
    on_demand = partial(file, sshd, connect="onDemand", idleTimeout="1s")
    async with running(tmp_path, on_demand(line(holdTimeout="500ms"))) as tunnels:
        await tunnels.until("server/echo", Phase.STANDBY)
        assert await is_reset(port)
        assert tunnels.results("server/echo") == {"hold_timeout": 1}
        tunnels.edit(on_demand(line(holdTimeout="20s")))
        await eventually(lambda: tunnels.engine.desired.tunnels["server/echo"].policy.hold_timeout == 20)
        await eventually(lambda: tunnels.engine.settled)
        await sshd.start()
        assert await exchange("127.0.0.1", port) == b"ping"
        await tunnels.until("server/echo", Phase.STANDBY)


async def test_on_demand_is_idle_again_after_a_failure_that_is_over(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    text = file(sshd, local("echo", port, echo.port), connect="onDemand", idleTimeout="1s")
    async with running(tmp_path, text) as tunnels:
        await tunnels.until("server/echo", Phase.STANDBY)
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await sshd.kill_sessions()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), WITHIN)
        verdict = await tunnels.until("server/echo", Phase.STANDBY)
        assert verdict.reason is None
        assert await exchange("127.0.0.1", port) == b"ping"
        await tunnels.until("server/echo", Phase.STANDBY)


async def test_the_second_host_takes_over_when_the_first_refuses(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, dead = free_port(), free_port()
    hosts = f'["127.0.0.1:{dead}", "127.0.0.1:{sshd.port}"]'
    text = file(sshd, local("echo", port, echo.port), host=None, port=None, hosts=hosts)
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", port) == b"ping"
        assert tunnels.engine.status is not None
        assert tunnels.engine.status.targets[0].host == f"127.0.0.1:{sshd.port}"


async def test_the_other_host_takes_over_when_the_current_one_is_lost(echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with Sshd(tmp_path / "one") as one, Sshd(tmp_path / "two", client=one.client) as two:
        known = tmp_path / "known_hosts"
        known.write_text(one.known_hosts.read_text() + two.known_hosts.read_text())
        hosts = f'["127.0.0.1:{one.port}", "127.0.0.1:{two.port}"]'
        line = local("echo", port, echo.port)
        async with running(tmp_path, file(one, line, host=None, port=None, hosts=hosts, knownHosts=known)) as tunnels:
            await tunnels.all_up()
            assert (one.sessions(), two.sessions()) == (1, 0)
            await one.stop()
            assert await exchange("127.0.0.1", port) == b"ping"
            assert two.sessions() == 1


async def test_a_held_client_follows_its_tunnel_to_another_target(echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with Sshd(tmp_path / "one") as one, Sshd(tmp_path / "two") as two:
        line = local("echo", port, echo.port)
        other = local("other", free_port(), echo.port)
        text = "targets:\n" + target(one, "one") + line + target(two, "two") + other
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            await one.stop()
            await tunnels.until("one/echo", Phase.DOWN)
            client = asyncio.create_task(exchange("127.0.0.1", port))
            await eventually(lambda: tunnels.meter("one/echo").held == 1)
            tunnels.edit("targets:\n" + target(two, "two") + other + line)
            assert await client == b"ping"


# --- a destination that does not answer ---------------------------------------------------------------------------


async def test_a_silent_destination_does_not_affect_other_tunnels(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    hung, well = free_port(), free_port()
    async with GreetingServer("hello") as service:
        asyncssh_server.never_answer_channel(f"127.0.0.1:{service.port}")
        lines = local("hung", hung, service.port) + local("well", well, echo.port)
        async with running(tmp_path, file(asyncssh_server, lines, dialTimeout="2s")) as tunnels:
            await tunnels.all_up()
            async with connected("127.0.0.1", well) as (reader, writer):
                clients = [asyncio.create_task(is_reset(hung)) for _ in range(3)]
                while not all(client.done() for client in clients):
                    writer.write(b"x")
                    assert await reader.readexactly(1) == b"x"
                verdict = await tunnels.until("server/hung", Phase.UNHEALTHY)
                assert verdict.reason == "destination"
                assert "did not answer" in verdict.message
                assert tunnels.phases()["server/well"] is Phase.UP
                assert tunnels.results("server/hung") == {"dial_failed": 3}
                asyncssh_server.answer_normally()
                assert await exchange("127.0.0.1", hung, b"") == b"hello"
                await tunnels.until("server/hung", Phase.UP)
                writer.write(b"y")
                assert await reader.readexactly(1) == b"y"


async def test_a_silent_destination_is_distinguished_from_a_silent_server(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    """On an idle link the server gets a request of its own, long before its keepalive is due."""
    port = free_port()
    text = file(asyncssh_server, local("echo", port, echo.port), dialTimeout="2s", keepaliveInterval="1h")
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        asyncssh_server.never_answer_channel(echo.address)
        assert all(await asyncio.gather(*(is_reset(port) for _ in range(3))))
        assert (await tunnels.until("server/echo", Phase.UNHEALTHY)).reason == "destination"


async def test_a_hanging_server_does_not_mark_its_destinations(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    line = local("echo", port, echo.port, holdTimeout="300ms")
    text = file(sshd, line, dialTimeout="1s", keepaliveInterval="1h")
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        sshd.pause()
        try:
            assert all(await asyncio.gather(*(is_reset(port) for _ in range(3))))
            verdict = await tunnels.until("server/echo", Phase.DOWN)
            assert (verdict.reason, "no data received" in verdict.message) == (Reason.KEEPALIVE, True)
        finally:
            sshd.resume()
        assert tunnels.results("server/echo") == {"hold_timeout": 3}
        await tunnels.until("server/echo", Phase.UP)
        assert await exchange("127.0.0.1", port) == b"ping"
        phases = [one.verdict.phase for one in tunnels.changes if one.verdict and one.subject.name == "server/echo"]
        assert phases[-1] is Phase.UP
        assert Phase.UNHEALTHY not in phases


async def test_unanswered_channels_are_freed_when_the_server_gives_up(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    asyncssh_server.never_answer_channel(echo.address)
    line = local("hung", port, echo.port)
    async with running(tmp_path, file(asyncssh_server, line, dialTimeout="2s")) as tunnels:
        await tunnels.all_up()
        async with tunnels.nothing_left_behind():
            assert all(await asyncio.gather(*(is_reset(port) for _ in range(20))))
            await asyncssh_server.drop_connections()  # from here on it cannot answer
            asyncssh_server.answer_normally()
            assert await exchange("127.0.0.1", port) == b"ping"


async def test_two_failures_and_a_success_do_not_mark_a_tunnel(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    port = free_port()
    async with GreetingServer("hello") as service:
        async with running(tmp_path, file(asyncssh_server, local("db", port, service.port))) as tunnels:
            await tunnels.all_up()
            for _ in range(3):
                asyncssh_server.refuse_channel(f"127.0.0.1:{service.port}", text="Connection refused")
                assert await is_reset(port)
                assert await is_reset(port)
                asyncssh_server.answer_normally()
                assert await exchange("127.0.0.1", port, b"") == b"hello"
            assert not [
                change for change in tunnels.changes if change.verdict and change.verdict.phase is Phase.UNHEALTHY
            ]
            assert tunnels.results("server/db") == {"dial_failed": 6, "ok": 3}


async def test_results_of_an_old_destination_do_not_count_for_the_new(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    port, silent = free_port(), free_port()
    asyncssh_server.never_answer_channel(f"127.0.0.1:{silent}")
    async with running(tmp_path, file(asyncssh_server, local("db", port, silent), dialTimeout="3s")) as tunnels:
        await tunnels.all_up()
        clients = [asyncio.create_task(is_reset(port)) for _ in range(3)]
        await eventually(lambda: tunnels.meter("server/db").active == 3)
        tunnels.edit(file(asyncssh_server, local("db", port, echo.port), dialTimeout="3s"))
        assert all(await asyncio.gather(*clients))
        assert not tunnels.engine.actuator.observe().destinations
        assert await exchange("127.0.0.1", port) == b"ping"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"AllowTcpForwarding": "no"}, "forbidden_by_server"), ({"PermitOpen": "none"}, "forbidden_by_server")],
)
async def test_a_server_that_forbids_forwarding_is_named_as_the_cause(
    tmp_path: Path, echo: EchoServer, options: dict[str, str], reason: str
) -> None:
    port = free_port()
    async with Sshd(tmp_path / "sshd", options=options) as sshd:
        async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
            await tunnels.all_up()
            for _ in range(3):
                assert await is_reset(port)
            verdict = await tunnels.until("server/echo", Phase.UNHEALTHY)
            assert verdict.reason == reason


async def test_one_dead_destination_of_many_marks_only_its_tunnel(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    dead, well, proxy = free_port(), free_port(), free_port()
    lines = local("dead", dead, free_port()) + local("well", well, echo.port) + socks("proxy", proxy)
    async with running(tmp_path, file(sshd, lines)) as tunnels:
        await tunnels.all_up()
        for _ in range(3):
            assert await is_reset(dead)
            assert await exchange("127.0.0.1", well) == b"ping"
        await tunnels.until("server/dead", Phase.UNHEALTHY)
        phases = tunnels.phases()
        assert (phases["server/well"], phases["server/proxy"]) == (Phase.UP, Phase.UP)


# --- helpers -----------------------------------------------------------------------------------------------------


async def by_tcp_from(source: str, host: str, port: int) -> Streams:
    return await asyncio.open_connection(host, port, local_addr=(source, 0))


async def is_reset(port: int, source: str = "127.0.0.1") -> bool:
    """Return True if a client is closed without a byte (RST; EOF is possible for clients of a remote forward)."""
    try:
        reader, writer = await by_tcp_from(source, "127.0.0.1", port)
    except ConnectionResetError:  # the program, in the same event loop, was faster than this side of the connection
        return True
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        writer.transport.abort()


def per_link(flows: object) -> list[int]:
    counts: Counter[int] = Counter()
    for flow in flows:  # type: ignore[attr-defined]
        counts[flow.key.link] += flow.count
    return sorted(counts.values())


def owner_description(sockets: object) -> str:
    [state] = sockets.values()  # type: ignore[attr-defined]
    return str(state.owner.policy.description)
