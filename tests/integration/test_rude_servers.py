"""What a server may send; anything else ends its own connection only, with reason `protocol`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asyncssh import compression, connection
from asyncssh.packet import Boolean, String, UInt32

from integration.dialling import access, dialled, failure_of, hop
from reconciler.core.observed import Phase, Reason
from reconciler.core.spec import Endpoint
from reconciler.ssh.connect import debug_log
from reconciler.ssh.connect.dial import Dialled
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.internals import decompression, packet_guard
from reconciler.ssh.internals.parse_budget import WRITE_MAX
from reconciler.ssh.link.link import LinkClient
from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local, running
from support.wait import eventually, free_port

IGNORE, UNIMPLEMENTED, DEBUG, EXT_INFO = 2, 3, 4, 7
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE, OPEN, OPEN_FAILURE = 80, 81, 82, 90, 92


class Ended(LinkClient):
    """The client side of the latest connection; it records how the connection ended."""

    latest: Ended

    def __init__(self) -> None:
        super().__init__()
        Ended.latest = self


@contextlib.asynccontextmanager
async def connected(server: AsyncsshServer, **fields: Any) -> AsyncIterator[tuple[Dialled, Any]]:
    """A connection, and the server's side of it."""
    async with dialled(access(hop(server, **fields)), client=Ended) as ours:
        await eventually(lambda: len(server._connections) == 1)  # without what was refused before
        [theirs] = server._connections
        yield ours, theirs


async def lost_with() -> tuple[Reason, str]:
    """Why the latest connection ended."""
    await eventually(lambda: Ended.latest.ended)
    failure = from_lost(Ended.latest.error)
    return failure.reason, failure.message


def opening(host: str, port: int, number: int, *, size: int = 32768) -> bytes:
    """A channel from a listener on the server."""
    start = String(b"forwarded-tcpip") + UInt32(number) + UInt32(1 << 20) + UInt32(size)
    return start + String(host) + UInt32(port) + String(b"127.0.0.1") + UInt32(1)


# --- floods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [False, True])
async def test_a_flood_of_small_packets_is_parsed_over_many_turns_of_the_loop(
    asyncssh_server: AsyncsshServer, sshd: Sshd, jump: bool
) -> None:
    via = [hop(sshd)] if jump else []
    async with dialled(access(hop(asyncssh_server), *via)) as ours:
        [theirs] = asyncssh_server._connections
        parsed, most, turns = [0], 0, 0
        client: Any = ours.connection
        process = client.process_packet

        def count(*args: Any) -> Any:
            parsed[0] += 1
            return process(*args)

        client.process_packet = count
        for _ in range(9_000):  # fewer than end the connection
            theirs.send_packet(DEBUG, Boolean(False), String(b""), String(b""))
        total = before = 0
        while total < 9_000:
            await asyncio.sleep(0)
            total = parsed[0]
            most, turns, before = max(most, total - before), turns + (total > before), total
        assert most < 4_500  # one read holds 5,800 of them: before, that was the least
        assert turns > 3


async def test_thousands_of_packets_that_carry_nothing_end_the_connection(
    asyncssh_server: AsyncsshServer,
) -> None:
    async with connected(asyncssh_server) as (_, theirs):
        for _ in range(packet_guard.USELESS_MAX + 1):
            theirs.send_packet(DEBUG, Boolean(False), String(b""), String(b""))
        reason, message = await lost_with()
    assert reason is Reason.PROTOCOL
    assert f"{packet_guard.USELESS_MAX} packets like DEBUG" in message


async def test_as_many_ignored_packets_as_others_are_no_flood(
    asyncssh_server: AsyncsshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers based on asyncssh send one before each packet."""
    monkeypatch.setattr(packet_guard, "USELESS_MAX", 50)
    async with EchoServer() as echo, connected(asyncssh_server) as (ours, _):
        reader, writer = await ours.connection.open_connection("127.0.0.1", echo.port)
        for _ in range(200):
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
        writer.close()


async def test_answers_that_the_server_does_not_read_stop_the_reading(asyncssh_server: AsyncsshServer) -> None:
    async with connected(asyncssh_server) as (ours, theirs):
        theirs._transport.pause_reading()
        transport: Any = ours.connection._transport
        while transport.get_write_buffer_size() <= WRITE_MAX:
            ours.connection.send_packet(IGNORE, String(bytes(20_000)))
        for _ in range(1000):
            theirs.send_packet(GLOBAL_REQUEST, String(b"what@example"), Boolean(True))
        await eventually(lambda: not transport.is_reading())
        theirs._transport.resume_reading()
        await eventually(lambda: bool(transport.is_reading()))


# --- decompression ----------------------------------------------------------------------------------------------


async def test_a_packet_that_expands_without_end_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = AsyncsshServer(tmp_path / "asyncssh")
    expanded: list[int] = []
    decompress = decompression.Decompressor.decompress

    def note(self: decompression.Decompressor, data: bytes) -> bytes:
        result = decompress(self, data)
        expanded.append(len(result))
        return result

    monkeypatch.setattr(decompression.Decompressor, "decompress", note)
    async with server, connected(server, compress=True) as (ours, theirs):
        assert ours.connection.get_extra_info("recv_compression") == "zlib@openssh.com"
        theirs.send_packet(IGNORE, String(bytes(200 << 10)))  # allowed, as an uncompressed one
        await eventually(lambda: max(expanded, default=0) > 200 << 10)
        theirs.send_packet(IGNORE, String(bytes(100 << 20)))
        reason, message = await lost_with()
    assert (reason, "expands to more than 256 KiB" in message) == (Reason.PROTOCOL, True)
    assert max(expanded) <= decompression.EXPANDED_MAX


def test_asyncssh_has_each_compression_once_with_the_limited_one() -> None:
    decompression.install()
    assert isinstance(compression.get_decompressor(b"zlib@openssh.com"), decompression.Decompressor)
    assert isinstance(compression.get_decompressor(b"zlib"), decompression.Decompressor)
    assert sorted(compression.get_compression_algs()) == [b"none", b"zlib", b"zlib@openssh.com"]


# --- packets that are not as they should be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-\xff\xfe\r\n",
        b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x0b\x14" + bytes(10),  # only padding
        b"SSH-2.0-x\r\n\x00\x00\x00\x00" + bytes(12),  # no length
        b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x04\x14" + bytes(10),  # a key exchange that is cut off
    ],
)
async def test_a_packet_that_cannot_be_decoded_is_a_protocol_failure(sent: bytes, sshd: Sshd) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", port := free_port()):
        failure = await failure_of(access(hop(sshd, hosts=(Endpoint("127.0.0.1", port),))))
        ended.set()
    assert failure.reason is Reason.PROTOCOL


async def test_an_empty_packet_after_the_login_is_a_breach_of_protocol(asyncssh_server: AsyncsshServer) -> None:
    async with connected(asyncssh_server) as (_, theirs):
        packet, mac = theirs._send_encryption.encrypt_packet(theirs._send_seq, UInt32(16), b"\x0f" + bytes(15))
        theirs._send(packet + mac)
        reason, _ = await lost_with()
    assert reason is Reason.PROTOCOL


async def test_requests_within_a_key_exchange_end_the_connection(asyncssh_server: AsyncsshServer) -> None:
    async with connected(asyncssh_server) as (_, theirs):
        theirs._send_kexinit()
        theirs._kex_complete = True  # so that it does not wait itself
        theirs.send_packet(GLOBAL_REQUEST, String(b"what@example"), Boolean(True))
        reason, message = await lost_with()
    assert (reason, "GLOBAL_REQUEST within a key exchange" in message) == (Reason.PROTOCOL, True)


async def test_a_key_exchange_that_does_not_end_ends_the_connection(
    asyncssh_server: AsyncsshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_guard, "KEX_MAX", 0.2)
    async with connected(asyncssh_server) as (ours, theirs):
        theirs._transport.pause_reading()
        theirs._send_kexinit()
        await eventually(lambda: ours.guard._exchanging or Ended.latest.ended)
        reason, message = await lost_with()
    assert (reason, "takes longer" in message) == (Reason.PROTOCOL, True)


async def test_new_keys_do_not_disturb_a_transfer(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    async with EchoServer() as echo:
        text = file(asyncssh_server, local("echo", port := free_port(), echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.until("server/echo", Phase.UP)
            [theirs] = asyncssh_server._connections
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(5):
                theirs._send_kexinit()
                theirs._kexinit_sent = True
                writer.write(bytes(300_000))
                assert await reader.readexactly(300_000) == bytes(300_000)
            writer.close()


async def test_many_extensions_in_one_packet_end_the_connection(asyncssh_server: AsyncsshServer) -> None:
    """Parsing 30,000 of them took 40 ms, and a server may send such packets without pause."""
    async with connected(asyncssh_server) as (ours, theirs):
        client: Any = ours.connection
        client._can_recv_ext_info = True  # as after each key exchange
        theirs.send_packet(EXT_INFO, UInt32(1) + String(b"server-sig-algs") + String(b"ssh-ed25519"))
        theirs.send_packet(EXT_INFO, UInt32(30_000) + String(b"") * 60_000)
        reason, message = await lost_with()
    assert (reason, "30000 extensions in one packet" in message) == (Reason.PROTOCOL, True)


async def test_a_packet_is_limited_until_the_login_has_ended(
    asyncssh_server: AsyncsshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asyncssh parses each packet of the login without a pause: 50,000 empty prompts took 75 ms."""
    large = String(bytes(200 << 10))
    async with connected(asyncssh_server) as (_, theirs):
        theirs.send_packet(IGNORE, large)  # afterwards
        answered = theirs._make_global_request(b"what@example")
        await asyncio.wait_for(answered, 10)
    send = connection.SSHServerConnection.send_userauth_failure

    def refuse(self: Any, *args: Any) -> None:
        self.send_packet(IGNORE, large)
        send(self, *args)

    monkeypatch.setattr(connection.SSHServerConnection, "send_userauth_failure", refuse)
    failure = await failure_of(access(hop(asyncssh_server)))
    assert (failure.reason, "Max packet size" in failure.message) == (Reason.PROTOCOL, True)


# --- the log ----------------------------------------------------------------------------------------------------------


async def test_a_server_does_not_decide_how_much_is_logged(
    asyncssh_server: AsyncsshServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(asyncssh_server) as (ours, theirs):
        debug_log.watch(ours.connection, "server")
        for _ in range(3000):
            theirs.send_packet(DEBUG, Boolean(True), String(b"x" * 50), String(b""))
        theirs.send_packet(DEBUG, Boolean(True), String(b"y" * 200_000), String(b""))
        await eventually(lambda: theirs._transport.get_write_buffer_size() == 0)
        await asyncio.sleep(0.2)
        debug_log.unwatch(ours.connection)
    texts = [record.getMessage() for record in caplog.records if "Received debug message" in record.getMessage()]
    assert 0 < len(texts) < 2000
    assert max(map(len, texts)) < 5000
