"""What a tunnel allows its clients, and for how long: changed in place, felt by whom it concerns and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
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

# --- who may come ------------------------------------------------------------------------------------------------


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


async def test_sources_of_a_remote_tunnel_are_those_that_the_server_names(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, remote("back", port, echo.port, deny="[127.0.0.3]"))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", port) == b"ping"
        assert await is_reset(port, "127.0.0.3")
        assert tunnels.results("server/back") == {"ok": 1, "denied": 1}


async def test_an_edit_that_forbids_a_live_client_cuts_it_and_only_it(
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


async def test_clients_whom_an_edit_cuts_are_told_of_in_one_line_and_one_event(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the tunnel has no audit: else nobody would learn why they were gone."""
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
    why = "its source 127.0.0.2 is not allowed any more"
    assert (event.subject, event.message) == ("tunnel server/echo", f"2 clients: {why}")
    [line] = [record for record in caplog.records if "cut" in record.getMessage()]
    assert line.getMessage() == f"tunnel server/echo: its new rules cut 2 clients: {why}"
    assert (line.levelname, line.tunnel) == ("INFO", "server/echo")  # type: ignore[attr-defined]


async def test_many_clients_with_many_reasons_are_told_of_in_one_line(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
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
        "5 clients: its source 127.0.0.2 is not allowed any more (2 of them); "
        "its source 127.0.0.3 is not allowed any more (1 of them); "
        "its source 127.0.0.4 is not allowed any more (1 of them); and others"
    )


async def test_an_edit_that_forbids_a_held_client_holds_when_the_link_is_back(
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
        await eventually(lambda: owner_description(tunnels.app.actuator.observe().sockets) == "edited")
        await sshd.start()
        assert await client
        assert echo.total == 0


async def test_a_unix_sockets_clients_have_no_source_and_are_let_in(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """Who may open a unix socket is the file system's business."""
    path = tmp_path / "db.sock"
    line = tunnel("db", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=echo.port, allow="[192.0.2.0/24]")
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"


# --- how many ----------------------------------------------------------------------------------------------------


async def test_clients_over_the_limit_are_reset_and_counted_and_come_in_when_one_leaves(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, maxConnections=2))) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer), connected("127.0.0.1", port) as (other, says):
            for at, to in ((reader, writer), (other, says)):
                to.write(b"x")
                assert await at.readexactly(1) == b"x"
            assert await is_reset(port)
            assert await is_reset(port)
        await tunnels.nobody_is_connected()
        assert await exchange("127.0.0.1", port) == b"ping"
        assert tunnels.results("server/echo") == {"ok": 3, "limit": 2}


async def test_all_that_the_limit_allows_may_come_at_once(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """A client whose channel opens is one client, not one that waits and one that is there."""
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


# --- how long ----------------------------------------------------------------------------------------------------


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
async def test_switched_off_is_off_and_on_again_is_up(sshd: Sshd, echo: EchoServer, tmp_path: Path, what: str) -> None:
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


# --- how fast ----------------------------------------------------------------------------------------------------


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
            # 8 MiB at 4 MiB/s, less the burst and a read each: never faster, whatever the machine does.
            assert time.monotonic() - began > 1.2


async def test_a_bandwidth_limit_is_changed_and_lifted_in_place(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service:
        slow = file(sshd, local("data", port, service.port, bandwidthLimit="64KiB/s"))
        async with running(tmp_path, slow) as tunnels:
            await tunnels.all_up()
            # An hour's worth at that rate.
            transfer = asyncio.create_task(download("127.0.0.1", port, 200 * MIB))
            await eventually(lambda: tunnels.meter("server/data").received > 100_000)
            tunnels.edit(file(sshd, local("data", port, service.port)))
            expected, seen = await transfer
            assert seen == expected


async def test_a_limit_that_was_far_too_low_does_not_hold_after_it_is_lifted(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service:
        async with running(tmp_path, file(sshd, local("data", port, service.port, bandwidthLimit="1KiB/s"))) as tunnels:
            await tunnels.all_up()
            there = asyncio.create_task(upload("127.0.0.1", port, MIB))
            back = asyncio.create_task(download("127.0.0.1", port, MIB))
            # Each has read a piece, and is to rest for minutes.
            relays = tunnels.app.actuator._flows.relays
            await eventually(lambda: sum(max(relay.sent, relay.received) > 32_000 for relay in relays()) == 2)
            tunnels.edit(file(sshd, local("data", port, service.port)))
            async with asyncio.timeout(WITHIN):
                for expected, seen in await asyncio.gather(there, back):
                    assert seen == expected


# --- which connections -------------------------------------------------------------------------------------------


async def test_clients_are_spread_over_four_connections(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port), sshConnections=4)) as tunnels:
        await eventually(lambda: len(tunnels.links) == 4)
        await tunnels.all_up()
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for reader, writer in clients:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert per_link(tunnels.app.actuator.observe().flows) == [5, 5, 5, 5]
        for _, writer in clients[:10]:  # whoever comes next goes where there is least
            writer.close()
        await eventually(lambda: tunnels.meter("server/echo").active == 10)
        more = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for reader, writer in more:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert per_link(tunnels.app.actuator.observe().flows) == [5, 5, 5, 5]
        for _, writer in (*clients, *more):
            writer.close()


async def test_one_of_four_connections_lost_costs_its_own_clients_only(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
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


async def test_on_demand_holds_its_client_while_the_server_is_away_and_rests_when_it_gave_up(
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
        await eventually(lambda: tunnels.app.loop.desired.tunnels["server/echo"].policy.hold_timeout == 20)
        await eventually(lambda: tunnels.app.settled)
        await sshd.start()
        assert await exchange("127.0.0.1", port) == b"ping"
        await tunnels.until("server/echo", Phase.STANDBY)


async def test_on_demand_rests_again_after_a_failure_that_is_over(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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
        assert tunnels.app.judgement is not None
        assert tunnels.app.judgement.targets[0].host == f"127.0.0.1:{sshd.port}"


async def test_the_other_host_takes_over_when_the_one_in_use_goes_away(echo: EchoServer, tmp_path: Path) -> None:
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


async def test_a_destination_that_never_answers_costs_its_neighbours_nothing(
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


async def test_a_destination_that_never_answers_is_known_from_a_server_that_does_not(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    """Also where nothing else is heard: the server is asked, long before its keepalive is due."""
    port = free_port()
    text = file(asyncssh_server, local("echo", port, echo.port), dialTimeout="2s", keepaliveInterval="1h")
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        asyncssh_server.never_answer_channel(echo.address)
        assert all(await asyncio.gather(*(is_reset(port) for _ in range(3))))
        assert (await tunnels.until("server/echo", Phase.UNHEALTHY)).reason == "destination"


async def test_a_server_that_hangs_is_not_the_fault_of_its_destinations(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    port = free_port()
    text = file(sshd, local("echo", port, echo.port), dialTimeout="1s", keepaliveInterval="1h")
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        sshd.pause()
        try:
            assert all(await asyncio.gather(*(is_reset(port) for _ in range(3))))
        finally:
            sshd.resume()
        assert tunnels.results("server/echo") == {"dial_failed": 3}
        assert f"the SSH server sent nothing while {echo.address} was dialled" in caplog.text
        assert await exchange("127.0.0.1", port) == b"ping"
        phases = [one.verdict.phase for one in tunnels.changes if one.verdict and one.subject == "tunnel server/echo"]
        assert phases[-1] is Phase.UP
        assert Phase.UNHEALTHY not in phases


async def test_what_never_answered_leaves_nothing_once_the_server_gives_up(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    asyncssh_server.never_answer_channel(echo.address)
    line = local("hung", port, echo.port)
    async with running(tmp_path, file(asyncssh_server, line, dialTimeout="2s")) as tunnels:
        await tunnels.all_up()
        async with tunnels.nothing_left_behind():
            assert all(await asyncio.gather(*(is_reset(port) for _ in range(20))))
            await asyncssh_server.drop_connections()  # now it cannot answer any more
            asyncssh_server.answer_normally()
            assert await exchange("127.0.0.1", port) == b"ping"


async def test_two_failures_and_a_success_are_no_trouble(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
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


async def test_what_the_old_destination_does_after_an_edit_says_nothing_about_the_new_one(
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
        assert not tunnels.app.actuator.observe().destinations
        assert await exchange("127.0.0.1", port) == b"ping"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"AllowTcpForwarding": "no"}, "forbidden_by_server"), ({"PermitOpen": "none"}, "forbidden_by_server")],
)
async def test_a_server_that_forbids_it_is_named_as_the_cause(
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


async def test_one_dead_destination_of_many_on_a_connection_marks_its_own_tunnel_only(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
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
    """Whether a client is sent away without a byte (RST; the far client of a remote tunnel may see an end instead)."""
    reader, writer = await by_tcp_from(source, "127.0.0.1", port)
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
