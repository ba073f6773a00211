"""What an edit does, row by row (docs/contract.md), on a real server with clients that transfer data."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from reconciler.config.syntax.config_files import digest
from reconciler.core.observed import LinkPhase, Phase
from reconciler.core.rules.origin import Origin
from reconciler.core.subject import Subject
from reconciler.ssh.clients.connection import ListenerClients
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.pool import LinkPool
from reconciler.ssh.relay.client_socket import ClientSocket
from support.clients import Mover, all_move, listening_inodes, moving
from support.keys import KeyPair, Keys
from support.services import MIB, EchoServer, GreetingServer, Opening, Streams, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, socks, target
from support.wait import WITHIN, eventually, free_port

CLIENTS = 5
HOUR = 3600.0  # so long may clients drain: the clock is set forward when they have been seen to


@pytest.fixture
async def neighbour() -> AsyncIterator[GreetingServer]:
    """A second service, to tell the destinations apart."""
    async with GreetingServer("the other place") as server:
        yield server


# --- policy: in place; live clients kept ------------------------------------------------------------------------


async def test_a_policy_edit_cuts_only_the_client_that_it_forbids(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        inode, links = listening_inodes()[port], tunnels.links
        async with moving([port] * CLIENTS) as movers:
            stranger = Mover(port, opening=coming_from("127.0.0.2"))
            await stranger.moves()
            edits: dict[str, object] = {
                "description": "PostgreSQL",
                "labels": "{team: data}",
                "critical": "false",
                "maxConnections": 3,  # fewer than are connected: live clients stay
                "drainTimeout": "1s",
                "holdTimeout": "1s",
                "idleTimeout": "1h",
                "bandwidthLimit": "50MiB/s",
                "audit": "true",
                "health": "{type: tcp}",
                "expiresAt": "2099-01-01T00:00:00Z",
                "allow": "[127.0.0.0/8]",
            }
            for number in range(len(edits)):
                fields = dict(list(edits.items())[: number + 1])
                tunnels.edit(file(sshd, local("echo", port, echo.port, **fields)))
                await is_planned(tunnels)
                await all_move([*movers, stranger])
            tunnels.edit(file(sshd, local("echo", port, echo.port, deny="[127.0.0.2/32]")))
            await stranger.is_cut()
            await all_move(movers)
        assert listening_inodes()[port] == inode
        assert tunnels.links == links


async def test_settings_of_a_target_change_on_its_live_connection(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        links = tunnels.links
        async with moving([port] * CLIENTS):
            fields = {"keepaliveInterval": "3s", "dialTimeout": "2s", "handoverTimeout": "1h", "connectTimeout": "3s"}
            tunnels.edit(file(sshd, local("echo", port, echo.port), **fields))
            await eventually(lambda: tunnels.links[0].dial_timeout == 2)
            assert tunnels.links[0].connection._keepalive_interval == 3
            assert tunnels.links == links


async def test_an_edited_drain_timeout_applies_to_live_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, keep = free_port(), local("keep", free_port(), echo.port)
    async with running(tmp_path, file(sshd, keep, local("one", port, echo.port, drainTimeout="1h"))) as tunnels:
        await tunnels.all_up()
        mover = Mover(port)
        await all_move([mover])
        tunnels.edit(file(sshd, keep, local("one", port, echo.port, drainTimeout="100ms")))
        await eventually(lambda: tunnels.engine.desired.tunnels["server/one"].policy.drain_timeout == 0.1)
        await eventually(lambda: tunnels.engine.settled)
        tunnels.edit(file(sshd, keep))
        await mover.is_cut()


# --- route: in place; live clients drained ----------------------------------------------------------------------


async def test_a_retargeted_local_forward_never_closes_its_port_and_drains_its_clients(
    sshd: Sshd, echo: EchoServer, neighbour: GreetingServer, tmp_path: Path
) -> None:
    port = free_port()
    line = partial(local, "one", port, drainTimeout="1h")
    async with running(tmp_path, file(sshd, line(echo.port))) as tunnels:
        await tunnels.all_up()
        inode, links = listening_inodes()[port], tunnels.links
        movers = [Mover(port) for _ in range(CLIENTS)]
        await all_move(movers)
        async with connecting_repeatedly(port) as attempts, never_down(tunnels, "server/one"):
            tunnels.edit(file(sshd, line(neighbour.port)))
            await eventually(partial(greets, port))
            await all_move(movers)  # the clients drain
            tunnels.set_forward(HOUR)
            for mover in movers:
                await mover.is_cut()  # and their deadline has passed
        assert attempts.refused == 0
        assert (listening_inodes()[port], tunnels.links) == (inode, links)


async def test_a_retargeted_remote_forward_never_closes_its_port_and_drains_its_clients(
    sshd: Sshd, echo: EchoServer, neighbour: GreetingServer, tmp_path: Path
) -> None:
    port = free_port()
    line = partial(remote, "one", port, drainTimeout="1h")
    async with running(tmp_path, file(sshd, line(echo.port))) as tunnels:
        await tunnels.all_up()
        inode, links = listening_inodes()[port], tunnels.links
        movers = [Mover(port) for _ in range(CLIENTS)]
        await all_move(movers)
        async with connecting_repeatedly(port) as attempts:
            tunnels.edit(file(sshd, line(neighbour.port)))
            await eventually(partial(greets, port))
            await all_move(movers)
            tunnels.set_forward(HOUR)
            for mover in movers:
                await mover.is_cut()
        assert attempts.refused == 0
        assert (listening_inodes()[port], tunnels.links) == (inode, links)


async def test_a_tunnel_moved_to_another_target_never_closes_its_port(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    line, keep = local("one", port, echo.port, drainTimeout="1h"), local("keep", other, echo.port)
    here, there = target(sshd, "here"), target(sshd, "there") + local("other", free_port(), echo.port)
    async with running(tmp_path, "targets:\n" + here + line + keep + there) as tunnels:
        await tunnels.all_up()
        inode = listening_inodes()[port]
        async with moving([other]), connecting_repeatedly(port) as attempts:
            movers = [Mover(port) for _ in range(CLIENTS)]
            await all_move(movers)
            async with never_down(tunnels, "here/keep", "there/other", "there/one"):
                tunnels.edit("targets:\n" + here + keep + there + line)
                await tunnels.all_up("here/keep", "there/other", "there/one")
            await all_move(movers)
            tunnels.set_forward(HOUR)
            for mover in movers:
                await mover.is_cut()
            assert await exchange("127.0.0.1", port) == b"ping"
        assert attempts.refused == 0
        assert listening_inodes()[port] == inode


# --- names and ports that change hands: in place; kept ------------------------------------------------------------


async def test_a_renamed_tunnel_keeps_its_socket_and_its_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    near, far = free_port(), free_port()
    async with running(tmp_path, file(sshd, local("old", near, echo.port), remote("gone", far, echo.port))) as tunnels:
        await tunnels.all_up()
        inodes = listening_inodes()
        async with moving([near, far] * CLIENTS):
            async with never_down(tunnels, "server/new", "server/here", "server/old", "server/gone"):
                tunnels.edit(file(sshd, local("new", near, echo.port), remote("here", far, echo.port)))
                await tunnels.all_up("server/new", "server/here")
            for name in ("new", "here"):
                await eventually(partial(has_clients, tunnels, f"server/{name}"))
            assert not any(flow.draining for flow in tunnels.engine.actuator.observe().flows)
        now = listening_inodes()
        assert (now[near], now[far]) == (inodes[near], inodes[far])


async def test_two_tunnels_swap_ports_without_cutting_clients(
    sshd: Sshd, echo: EchoServer, neighbour: GreetingServer, tmp_path: Path
) -> None:
    one, two = free_port(), free_port()
    async with running(tmp_path, file(sshd, local("a", one, echo.port), local("b", two, neighbour.port))) as tunnels:
        await tunnels.all_up()
        inodes = listening_inodes()
        async with moving([one] * CLIENTS), connected("127.0.0.1", two) as (reader, writer):
            assert await reader.read(100) == b"the other place"
            async with never_down(tunnels, "server/a", "server/b"):
                tunnels.edit(file(sshd, local("a", two, echo.port), local("b", one, neighbour.port)))
                await eventually(partial(greets, one))
            assert await exchange("127.0.0.1", two) == b"ping"
            assert not any(flow.draining for flow in tunnels.engine.actuator.observe().flows)
            writer.write_eof()
        now = listening_inodes()
        assert (now[one], now[two]) == (inodes[one], inodes[two])


# --- access: make before break ------------------------------------------------------------------------------------


async def test_remote_forwards_move_to_the_new_connection_and_keep_clients(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """The server's port may refuse for one round trip, between the cancel and the new request."""
    port = free_port()
    async with running(tmp_path, file(sshd, remote("one", port, echo.port))) as tunnels:
        await tunnels.all_up()
        async with moving([port] * CLIENTS), connecting_repeatedly(port) as attempts:
            for _ in range(10):
                old, count = tunnels.links[-1], attempts.count
                tunnels.engine.restart(["server"], "the test asks for it")
                await eventually(partial(is_replaced, tunnels, old))
                await tunnels.all_up()
                await eventually(partial(attempts.come, count + 3))
        await eventually(lambda: len(tunnels.links) == 1)


async def test_a_known_hosts_edit_replaces_the_link_only_if_its_key_is_gone(
    keys: Keys, echo: EchoServer, tmp_path: Path
) -> None:
    second = keys.make("host_ecdsa", kind="ecdsa-sha2-nistp256")
    port = free_port()
    two_keys = {"HostKey": f"{tmp_path}/sshd/host\nHostKey {second.private}"}
    async with Sshd(tmp_path / "sshd", options=two_keys) as sshd:
        first_line = sshd.known_hosts.read_text()
        second_line = f"[{sshd.host}]:{sshd.port} {' '.join(second.public_line.split()[:2])}\n"
        async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
            await tunnels.all_up()
            (link,) = tunnels.links
            async with moving([port] * CLIENTS):
                before = record(tunnels, link)
                sshd.known_hosts.write_text("# a comment\n" + second_line + first_line)
                await eventually(lambda: record(tunnels, link) != before, message="the new content is looked at")
                assert tunnels.links == [link]
                sshd.known_hosts.write_text(second_line)
                await eventually(partial(is_replaced, tunnels, link), message="its key is not believed any more")
                await tunnels.all_up()
                (_, replacing) = tunnels.links
                stranger = keys.make("stranger", kind="ecdsa-sha2-nistp256")
                sshd.known_hosts.write_text(second_line.replace(key_of(second), key_of(stranger)))
                verdict = await eventually(partial(warning_of, tunnels))
                assert "has changed" in verdict
                assert tunnels.phases() == {"server/echo": Phase.UP}, "the last good connection goes on"
                assert replacing in tunnels.links
                sshd.known_hosts.write_text(second_line)
                await eventually(lambda: not warning_of(tunnels))


async def nothing_new(_links: LinkPool) -> bool:
    return False


@pytest.mark.parametrize("looked_at", ["at once", "after the next dial"])
async def test_a_known_hosts_edit_that_is_reverted_replaces_nothing(
    sshd: Sshd, keys: Keys, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: str
) -> None:
    port, right = free_port(), sshd.known_hosts.read_text()
    stranger = keys.make("stranger")
    async with running(tmp_path, file(sshd, local("echo", port, echo.port), handoverTimeout="5s")) as tunnels:
        await tunnels.all_up()
        (link,) = tunnels.links
        async with moving([port] * CLIENTS) as movers:
            sshd.known_hosts.write_text(f"[{sshd.host}]:{sshd.port} {' '.join(stranger.public_line.split()[:2])}\n")
            assert "has changed" in await eventually(partial(warning_of, tunnels))
            if (
                looked_at == "after the next dial"
            ):  # the dial is due and finds the right key, before the periodic check has run
                monkeypatch.setattr(LinkPool, "check_files", nothing_new)
                sshd.known_hosts.write_text(right)
                tunnels.set_forward(HOUR)
            else:
                sshd.known_hosts.write_text(right)
            await eventually(lambda: not warning_of(tunnels))
            await eventually(lambda: tunnels.engine.settled)
            assert [state.phase for state in tunnels.engine.actuator.observe().links] == [LinkPhase.READY]
            tunnels.set_forward(HOUR)
            assert await tunnels.engine.passed()
            await all_move(movers)
            assert tunnels.links == [link]


async def test_changed_credentials_are_used_at_the_next_connect(
    sshd: Sshd, echo: EchoServer, keys: Keys, tmp_path: Path
) -> None:
    port = free_port()
    key = keys.make("changing")
    sshd.authorize(key)
    right, wrong = key.private.read_bytes(), keys.make("stranger").private.read_bytes()
    text = file(sshd, local("echo", port, echo.port, holdTimeout="30s"), privateKey=key.private)
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        (link,) = tunnels.links
        async with moving([port] * CLIENTS):
            before = record(tunnels, link)
            key.private.write_bytes(wrong)
            await eventually(lambda: record(tunnels, link) != before, message="the new content is looked at")
            assert tunnels.links == [link], "a live connection is not replaced"
            assert tunnels.phases() == {"server/echo": Phase.UP}
        await sshd.kill_sessions()
        await tunnels.until("server/echo", Phase.DOWN)
        await eventually(lambda: (v := tunnels.verdict("server/echo")) is not None and v.needs_action)
        verdict = tunnels.verdict("server/echo")
        assert verdict is not None
        assert verdict.next_try is not None
        assert verdict.next_try.at - time.monotonic() > WITHIN, "the next try is not due before the test gives up"
        key.private.write_bytes(right)
        await tunnels.until("server/echo", Phase.UP)


# --- listen address and type: close, then open; drained -----------------------------------------------------------


async def test_a_changed_address_or_type_opens_a_socket_and_drains_the_old_one(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, new = free_port(), free_port()
    drain = {"drainTimeout": "1h"}
    async with running(tmp_path, file(sshd, local("one", port, echo.port, **drain))) as tunnels:
        await tunnels.all_up()
        for line in (
            local("one", new, echo.port, **drain),
            local("one", port, echo.port, localHost="127.0.0.2", **drain),
            socks("one", port, **drain),
        ):
            came_by = tunnels.bound("server/one")
            host, _, number = came_by.rpartition(":")
            movers = [Mover(int(number), opening=going_to(host)) for _ in range(CLIENTS)]
            await all_move(movers)
            tunnels.edit(file(sshd, line))
            await eventually(partial(is_refused, int(number), host))
            await tunnels.all_up()
            await all_move(movers)
            tunnels.set_forward(HOUR)
            for mover in movers:
                await mover.is_cut()


# --- removed, off, expired: stop accepting at once, drain; restored: clients stay ------------------------------------


async def test_a_tunnel_turned_off_in_any_way_refuses_at_once_and_drains(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, far, other = free_port(), free_port(), free_port()
    keep = local("keep", other, echo.port)

    def both(**fields: object) -> str:
        return local("one", port, echo.port, drainTimeout="1h", **fields) + remote(
            "two", far, echo.port, drainTimeout="1h", **fields
        )

    async with running(tmp_path, file(sshd, keep + both())) as tunnels:
        await tunnels.all_up()
        async with moving([other] * CLIENTS):
            for way in ("removed", "enabled: false", "expired", "paused"):
                await tunnels.all_up("server/keep", "server/one", "server/two")
                movers = [Mover(one) for one in (port, far) for _ in range(CLIENTS)]
                await all_move(movers)
                soon = datetime.fromtimestamp(time.time() + 1, UTC).isoformat()
                gone = {
                    "removed": "",
                    "enabled: false": both(enabled="false"),
                    "expired": both(expiresAt=soon),
                    "paused": both(),
                }[way]
                tunnels.edit(file(sshd, keep + gone))
                if way == "paused":
                    tunnels.engine.pause(["server/one", "server/two"], None, "the test asks for it")
                for one in (port, far):
                    await eventually(partial(is_refused, one))
                await all_move(movers)
                tunnels.set_forward(HOUR)
                for mover in movers:
                    await mover.is_cut()
                if way != "removed":
                    await tunnels.until("server/one", Phase.OFF)
                tunnels.edit(file(sshd, keep + both()))
                tunnels.engine.resume(["server/one", "server/two"], "the test asks for it")


async def test_a_client_accepted_as_its_listener_closes_is_refused(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its handshake. A client that waits for nothing has a channel before the listener closes."""
    accept, port = ClientConnector.accept, free_port()

    def accept_and_close(
        connector: ClientConnector, listener: ListenerClients, client: ClientSocket, origin: Origin
    ) -> None:
        accept(connector, listener, client, origin)
        connector.reject_waiting(listener)

    monkeypatch.setattr(ClientConnector, "accept", accept_and_close)
    async with running(tmp_path, file(sshd, socks("one", port))) as tunnels:
        await tunnels.all_up()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(30):
                await exchange("127.0.0.1", port)


async def test_a_tunnel_restored_while_it_drains_keeps_its_clients(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, far = free_port(), free_port()
    both = local("one", port, echo.port), remote("two", far, echo.port)
    gone = local("one", port, echo.port, enabled="false"), remote("two", far, echo.port, enabled="false")
    async with running(tmp_path, file(sshd, *both)) as tunnels:
        await tunnels.all_up()
        links = tunnels.links
        async with moving([port, far] * CLIENTS):
            for away in ((), gone, ()):
                tunnels.edit(file(sshd, *away) if away else "targets: {}\n")
                for one in (port, far):
                    await eventually(partial(is_refused, one))
                tunnels.edit(file(sshd, *both))
                await tunnels.all_up("server/one", "server/two")
                await eventually(lambda: not any(flow.draining for flow in tunnels.engine.actuator.observe().flows))
        assert tunnels.links == links, "the connection lives by its clients meanwhile"


# --- helpers ------------------------------------------------------------------------------------------------------


class Attempts:
    """The attempts of a client that connects repeatedly."""

    def __init__(self) -> None:
        self.count = self.refused = 0

    def come(self, count: int) -> bool:
        return self.count > count


@contextlib.asynccontextmanager
async def connecting_repeatedly(port: int) -> AsyncIterator[Attempts]:
    """Connect every few milliseconds, and count the attempts and the refusals."""
    attempts = Attempts()

    async def attempt() -> None:
        while True:
            attempts.count += 1
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
            except ConnectionError:  # refused, or reset if the listener closed while the client was in its queue
                attempts.refused += 1
            await asyncio.sleep(0.005)

    task = asyncio.create_task(attempt())
    try:
        yield attempts
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def never_down(tunnels: Running, *ids: str) -> AsyncIterator[None]:
    """Check that these tunnels are up, or removed, at every pass of the block."""
    told = len(tunnels.changes)
    before = {one.id: one.condition for one in tunnels.app.snapshot().tunnels}
    yield
    await is_planned(tunnels)
    subjects = {Subject("tunnel", id_) for id_ in ids}
    changes = [one for one in tunnels.changes[told:] if one.subject in subjects]
    assert {one.verdict.phase for one in changes if one.verdict is not None} <= {Phase.UP}, changes
    for one in tunnels.app.snapshot().tunnels:
        if one.id in ids:
            assert one.condition.reconnects == 0
            assert one.id not in before or one.condition.since == before[one.id].since


def coming_from(host: str) -> Opening:
    """Connect from another address of this machine."""

    async def opening(to: str, port: int) -> Streams:
        return await asyncio.open_connection(to, port, limit=MIB, local_addr=(host, 0))

    return opening


def going_to(host: str) -> Opening:
    """Connect to this address, whatever address the caller gives."""

    async def opening(_to: str, port: int) -> Streams:
        return await asyncio.open_connection(host, port, limit=MIB)

    return opening


async def is_planned(tunnels: Running) -> None:
    """Wait until the present content of the file has been planned."""
    revision = f"sha256:{digest(tunnels.file.read_bytes())}"
    await eventually(lambda: (config := tunnels.app.snapshot().config).revision == revision and config.converged)


async def greets(port: int) -> bool:
    async with connected("127.0.0.1", port) as (reader, writer):
        writer.write_eof()
        return await reader.read(100) == b"the other place"


async def is_refused(port: int, host: str = "127.0.0.1") -> bool:
    try:
        async with asyncio.timeout(30):
            await exchange(host, port)
    except ConnectionRefusedError:
        return True
    except ConnectionError:
        pass
    return False


def has_clients(tunnels: Running, tunnel: str) -> bool:
    return tunnels.meter(tunnel).active == CLIENTS


def is_replaced(tunnels: Running, link: Link) -> bool:
    return tunnels.links[-1] is not link


def warning_of(tunnels: Running) -> str:
    """Return the message of a target that is up."""
    assert tunnels.engine.status is not None
    verdict = tunnels.engine.status.targets[0].verdict
    return verdict.message if verdict.phase is Phase.UP and verdict.reason is not None else ""


def key_of(pair: KeyPair) -> str:
    return pair.public_line.split()[1]


def record(tunnels: Running, link: Link) -> str:
    """Return the last recorded state of the link's files."""
    return tunnels.engine.actuator._links._links[link.number].fingerprint
