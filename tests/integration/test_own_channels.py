"""Forwards over own channels: the same bytes both ways, new keys under load, servers that violate the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asyncssh.packet import String, UInt32

from integration.packet_paths import calls
from reconciler.core.observed import Phase
from reconciler.ssh.channels.window import WindowBudget
from reconciler.ssh.link import channel_driver
from support.asyncssh_server import AsyncsshServer
from support.services import MIB, EchoServer, SinkSource, check_transfers, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running
from support.wait import eventually, free_port

ADJUST, DATA, EXTENDED_DATA, EOF = 93, 94, 95, 96
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
SIZE = 8 * MIB
SLOW = 200  # clients that read nothing

pytestmark = pytest.mark.usefixtures("is_plain")


@pytest.mark.each_loop
@pytest.mark.parametrize("cipher", CIPHERS)
async def test_the_bytes_are_the_same_with_each_cipher(sshd: Sshd, tmp_path: Path, is_plain: bool, cipher: str) -> None:
    near, far = free_port(), free_port()
    async with SinkSource() as service:
        lines = local("near", near, service.port), remote("far", far, service.port)
        async with running(tmp_path, file(sshd, *lines, algorithms=f"{{cipher: [{cipher}]}}")) as tunnels:
            await tunnels.all_up()
            [link] = tunnels.links
            assert link.connection.get_extra_info("send_cipher") == cipher
            assert link.channels._path.is_plain is (is_plain or cipher == "aes256-ctr")
            await asyncio.gather(check_transfers(service, near, SIZE), check_transfers(service, far, SIZE))
            await tunnels.no_client_is_connected()


async def test_channels_that_wait_for_their_peer_are_looked_for(
    sshd: Sshd, tmp_path: Path, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`unit/test_channel_mux.py` tests what is done for them."""
    monkeypatch.setattr(channel_driver, "GO_ON_PAUSE", 0.0)
    port = free_port()
    async with running(tmp_path, file(sshd, local("one", port, echo.port))) as tunnels:
        await tunnels.all_up()
        [link] = tunnels.links
        mux: Any = link.channels._mux
        looked = calls(mux, "go_on")
        assert await exchange("127.0.0.1", port) == b"ping"
        assert looked


@pytest.mark.parametrize("by", ["the server", "us"])
async def test_new_keys_every_megabyte_under_load_keep_the_bytes(tmp_path: Path, by: str) -> None:
    port = free_port()
    options = {"RekeyLimit": "1M"} if by == "the server" else {}
    async with Sshd(tmp_path / "sshd", options=options) as sshd, SinkSource() as service:
        async with running(tmp_path, file(sshd, local("one", port, service.port))) as tunnels:
            await tunnels.all_up()
            [link] = tunnels.links
            connection: Any = link.connection
            if by == "us":
                connection._rekey_bytes = MIB
            exchanges = calls(connection, "_send_deferred_packets")
            await check_transfers(service, port, SIZE)
            assert len(exchanges) > SIZE // (2 * MIB)
            assert tunnels.links == [link]


# --- a server that violates the protocol ------------------------------------------------------------------------


class Pair:
    """Two clients on one link: the server disturbs the channel of one, and the other is its neighbour."""

    def __init__(self, tunnels: Running, server: AsyncsshServer, port: int) -> None:
        self.tunnels = tunnels
        [self.link] = tunnels.links
        [self.theirs] = server._connections
        self.port = port
        self.number = -1

    async def connect(self, stack: contextlib.AsyncExitStack) -> None:
        self.reader, self.writer = await self._client(stack)
        [(_, channel)] = self._channels().items()
        self.number = channel._send_chan
        self.near_reader, self.near_writer = await self._client(stack)

    async def _client(self, stack: contextlib.AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await stack.enter_async_context(connected("127.0.0.1", self.port))
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        return reader, writer

    def _channels(self) -> dict[int, Any]:
        connection: Any = self.theirs
        return dict(connection._channels)

    def send(self, kind: int, *fields: bytes, number: int | None = None) -> None:
        self.theirs.send_packet(kind, UInt32(self.number if number is None else number), *fields)

    async def neighbour_lives(self) -> None:
        self.near_writer.write(b"2")
        assert await self.near_reader.readexactly(1) == b"2"
        assert self.tunnels.links == [self.link]

    async def victim_ends(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(MIB):
                pass


@contextlib.asynccontextmanager
async def disturbed(server: AsyncsshServer, tmp_path: Path) -> AsyncIterator[Pair]:
    port = free_port()
    async with EchoServer() as echo, running(tmp_path, file(server, local("one", port, echo.port))) as tunnels:
        await tunnels.until("server/one", Phase.UP)
        pair = Pair(tunnels, server, port)
        async with contextlib.AsyncExitStack() as stack:
            await pair.connect(stack)
            yield pair


VIOLATIONS = {
    "an adjustment beyond 2^32": [(ADJUST, UInt32(0xFFFFFFFF))],
    "data beyond the window": [(DATA, String(bytes(32 << 10)))] * 1024,
    "a malformed packet": [(DATA, UInt32(7) + b"short")],
}


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_a_violation_ends_its_channel_alone(
    asyncssh_server: AsyncsshServer, tmp_path: Path, violation: str
) -> None:
    async with disturbed(asyncssh_server, tmp_path) as pair:
        for packet in VIOLATIONS[violation]:
            pair.send(*packet)
        await pair.neighbour_lives()
        await pair.victim_ends()
        await pair.neighbour_lives()


async def test_violations_that_openssh_ignores_are_ignored(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    async with disturbed(asyncssh_server, tmp_path) as pair:
        pair.send(DATA, String(bytes(40_000)))  # larger than the packets that we asked for
        assert await pair.reader.readexactly(40_000) == bytes(40_000)
        pair.send(EOF)
        pair.send(DATA, String(b"x"))
        pair.send(EOF)
        assert await pair.reader.read() == b""
        [victim] = [chan for chan in pair._channels().values() if chan._send_chan == pair.number]
        pair.writer.write(b"3")  # the other way goes on
        pair.writer.write_eof()
        await eventually(lambda: victim._recv_state != "open")
        await pair.neighbour_lives()


async def test_extended_data_is_dropped(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    async with disturbed(asyncssh_server, tmp_path) as pair:
        pair.send(EXTENDED_DATA, UInt32(1), String(b"error text"))
        pair.writer.write(b"3")
        assert await pair.reader.readexactly(1) == b"3"
        await pair.neighbour_lives()


async def test_a_number_that_was_never_used_ends_the_link(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    async with disturbed(asyncssh_server, tmp_path) as pair:
        pair.send(DATA, String(b"x"), number=pair.number + 1000)
        await eventually(lambda: pair.link.gone)
        await eventually(lambda: pair.tunnels.links and pair.tunnels.links != [pair.link])  # it is dialled again


# --- memory -----------------------------------------------------------------------------------------------------


async def test_slow_readers_use_no_more_than_the_budget_of_the_link(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service:
        async with running(tmp_path, file(sshd, local("one", port, service.port, maxConnections=0))) as tunnels:
            await tunnels.all_up()
            [link] = tunnels.links
            with contextlib.ExitStack() as stack:
                for _ in range(SLOW):
                    client = stack.enter_context(socket.socket())
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    client.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                    client.send(f"download {64 * MIB}\n".encode())
                actuator = tunnels.engine.actuator
                received = -1

                def stands_still() -> bool:
                    nonlocal received
                    before, received = received, tunnels.meter("server/one").received
                    return before == received > 0

                await eventually(lambda: tunnels.meter("server/one").active == SLOW)
                await eventually(stands_still, every=0.3)
                unsent = sum(connection.socket.unsent for connection in actuator.connections())
                assert unsent <= link.channels.reserved <= WindowBudget().total
            await tunnels.no_client_is_connected()
