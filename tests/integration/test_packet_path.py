"""The packet path on a real sshd: whole data while keys change, asyncssh's own packets beside ours, both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from integration.packet_paths import CIPHERS, calls, client_of, each_cipher, each_way, login
from reconciler.ssh.internals import packet_path, turn_budget
from reconciler.ssh.internals.packet_path import PLAIN_VARIABLE, PacketPath
from reconciler.ssh.internals.packet_reader import CHECKED
from support.asyncssh_server import AsyncsshServer
from support.dropbear import Dropbear
from support.path_forward import PathForward
from support.services import (
    MIB,
    EchoServer,
    SinkSource,
    check_transfers,
    connected,
    download,
    exchange,
    pattern_sha,
    sha_of,
    upload,
)
from support.sshd import Sshd
from support.wait import eventually

pytestmark = pytest.mark.each_loop

KEXINIT = 20
# Frequent requests, and no end of the connection when a busy machine answers late.
KEEPALIVE = {"keepalive_interval": 0.02, "keepalive_count_max": 10_000}


@each_way
@each_cipher
async def test_data_is_whole_while_both_sides_change_keys(sshd: Sshd, cipher: str, plain: bool) -> None:
    size = 12 * MIB
    sshd.options["RekeyLimit"] = "1M"
    await sshd.restart()
    async with SinkSource() as service, login(sshd, cipher, rekey_bytes=3 * MIB, **KEEPALIVE) as connection:
        forward = PathForward(connection, service.port, plain=plain)
        assert forward.path.is_plain is plain
        keys, keepalives = calls(connection, "send_newkeys"), calls(connection, "_make_keepalive_request")
        async with forward.listening() as port:
            await check_transfers(service, port, size)
        assert len(keys) > 3
        answered = len(keepalives)
        await eventually(lambda: len(keepalives) > answered + 1)


@each_cipher
async def test_only_our_side_changes_keys(sshd: Sshd, cipher: str) -> None:
    async with SinkSource() as service, login(sshd, cipher, rekey_bytes=MIB) as connection:
        forward = PathForward(connection, service.port)
        keys = calls(connection, "send_newkeys")
        async with forward.listening() as port:
            sent, came = await upload("127.0.0.1", port, 10 * MIB)
            assert sent == came
        assert 5 < len(keys) < 20


async def test_keys_that_change_with_time_change_below_asyncssh_too(sshd: Sshd) -> None:
    async with EchoServer() as echo, login(sshd, rekey_seconds=0.2) as connection:
        forward = PathForward(connection, echo.port)
        keys = calls(connection, "send_newkeys")
        async with forward.listening() as port, connected("127.0.0.1", port) as (reader, writer):
            while len(keys) < 3:
                writer.write(b"x" * 1000)
                assert await reader.readexactly(1000) == b"x" * 1000


@each_way
async def test_asyncsshs_own_channels_work_beside_ours(sshd: Sshd, plain: bool) -> None:
    async with EchoServer() as echo, login(sshd) as connection:
        forward = PathForward(connection, echo.port, plain=plain)
        async with forward.listening() as port:
            reader, writer = await connection.open_connection("127.0.0.1", echo.port)
            for count in range(20):
                block = bytes([count]) * 40_000
                writer.write(block)
                assert await exchange("127.0.0.1", port, block) == block
                assert await reader.readexactly(len(block)) == block
            writer.close()
            await writer.wait_closed()


async def test_it_may_be_installed_while_asyncssh_handles_a_packet_in_a_task(sshd: Sshd) -> None:
    sshd.options["RekeyLimit"] = "1M"
    await sshd.restart()
    async with SinkSource() as service, login(sshd) as connection:
        forwards: list[PathForward] = []
        asyncssh_connection: Any = connection
        send_kexinit = asyncssh_connection._send_kexinit

        def install() -> None:
            """Called in the task that handles the server's KEXINIT."""
            if not forwards:
                forwards.append(PathForward(connection, service.port))
            send_kexinit()

        async def process(*packet: Any) -> None:
            await handlers[KEXINIT](*packet)
            # Until more has arrived, which has to wait for this task.
            await eventually(lambda: bool(forwards[0].path._rest))
            asyncssh_connection._packet_handlers = handlers

        handlers = asyncssh_connection._packet_handlers
        asyncssh_connection._packet_handlers = {**handlers, KEXINIT: process}
        asyncssh_connection._send_kexinit = install
        size = 6 * MIB
        reader, writer = await connection.open_connection("127.0.0.1", service.port)
        writer.write(f"download {size}\n".encode())
        streams: Any = reader
        assert await sha_of(streams) == pattern_sha(size)
        async with forwards[0].listening() as port:
            sent, came = await download("127.0.0.1", port, size)
            assert sent == came
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("cut", [5, 16, 20])  # asyncssh decrypts 8 or 16 bytes first
@each_cipher
async def test_it_may_be_installed_while_asyncssh_has_the_start_of_a_packet(sshd: Sshd, cipher: str, cut: int) -> None:
    async with EchoServer() as echo, login(sshd, cipher) as connection:
        asyncssh_connection: Any = connection
        receive = connection.data_received
        installed: list[PacketPath] = []

        def install(data: bytes) -> None:
            asyncssh_connection.data_received = receive
            receive(data[:cut])
            path = PathForward(connection, echo.port).path
            path.get_buffer(-1)[: len(data) - cut] = data[cut:]
            path.buffer_updated(len(data) - cut)
            installed.append(path)

        asyncssh_connection.data_received = install
        await asyncssh_connection._make_global_request(b"keepalive@openssh.com")
        assert [path.is_plain for path in installed] == [False]


async def test_dropbear_and_our_side_change_keys(dropbear: Dropbear) -> None:
    async with SinkSource() as service, login(dropbear, CIPHERS[2], rekey_bytes=MIB) as connection:
        forward = PathForward(connection, service.port)
        assert not forward.path.is_plain
        async with forward.listening() as port:
            await check_transfers(service, port, 6 * MIB)


@each_cipher
async def test_an_asyncssh_server_gets_and_sends_whole_data(tmp_path: Path, cipher: str) -> None:
    async with AsyncsshServer(tmp_path / "server") as server, SinkSource() as service:
        async with login(server, cipher, rekey_bytes=MIB) as connection:
            forward = PathForward(connection, service.port)
            async with forward.listening() as port:
                await check_transfers(service, port, 3 * MIB)


async def test_many_clients_at_once(sshd: Sshd) -> None:
    async with EchoServer() as echo, login(sshd) as connection:
        forward = PathForward(connection, echo.port)
        async with forward.listening() as port:
            blocks = [bytes([count]) * 5000 for count in range(100)]
            assert await asyncio.gather(*(exchange("127.0.0.1", port, block) for block in blocks)) == blocks
        await eventually(lambda: not connection._channels)


class _Ignored:
    """Packets that the server ignores."""

    def __init__(self, count: int) -> None:
        self.left = count
        self._payload = b"\x02" + (1000).to_bytes(4) + bytes(1000)  # SSH_MSG_IGNORE

    @property
    def pending(self) -> bool:
        return self.left > 0

    def write_packets(self, rooms: Sequence[memoryview]) -> Sequence[int]:
        written = min(self.left, len(rooms))
        self.left -= written
        for room in rooms[:written]:
            room[: len(self._payload)] = self._payload
        return [len(self._payload)] * written


@each_way
async def test_packets_are_written_where_they_are_sealed_a_limited_number_at_once(sshd: Sshd, plain: bool) -> None:
    async with login(sshd) as connection:
        path = PathForward(connection, 1, plain=plain).path
        source = _Ignored(600)
        assert path.send(source)
        assert 300 < source.left < 400
        while source.pending:
            path.send(source)
            await asyncio.sleep(0)
        assert not path.send(source)
        connection_below: Any = connection
        await connection_below._make_global_request(b"keepalive@openssh.com")  # the server accepted all


async def test_packets_of_one_read_may_be_spread_over_turns(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_budget, "TURN", 0.0)
    monkeypatch.setattr(turn_budget, "QUANTUM", 0.0)
    async with SinkSource() as service, login(sshd) as connection:
        forward = PathForward(connection, service.port)
        batch: list[int] = []
        largest = 0
        receive_data, ended = forward.receive_data, forward.batch_ended

        def counting(payload: memoryview) -> bool:
            batch.append(len(payload))
            return receive_data(payload)

        def measuring() -> None:
            nonlocal largest
            largest = max(largest, len(batch))
            batch.clear()
            ended()

        monkeypatch.setattr(forward.path._packets, "_receive_data", counting)
        monkeypatch.setattr(forward, "batch_ended", measuring)
        async with forward.listening() as port:
            sent, came = await download("127.0.0.1", port, 3 * MIB)
            assert sent == came
        assert 1 <= largest <= CHECKED


async def test_nothing_is_read_while_too_much_is_unsent(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EchoServer() as echo, login(sshd) as connection:
        forward = PathForward(connection, echo.port)
        async with forward.listening() as port, connected("127.0.0.1", port) as (reader, writer):
            monkeypatch.setattr(packet_path, "UNSENT_MAX", -1)
            sent = bytes(MIB)  # a read ends within a packet sooner or later
            writer.write(sent)
            await eventually(lambda: not forward.path.reader.is_reading)
            monkeypatch.undo()
            forward.path.resume_writing()
            assert await reader.readexactly(len(sent)) == sent
            await eventually(lambda: forward.path.reader.is_reading)


async def test_through_a_jump_host_packets_take_the_plain_way(sshd: Sshd) -> None:
    async with SinkSource() as service, login(sshd) as jump, login(sshd, tunnel=jump) as connection:
        PathForward(jump, service.port)
        forward = PathForward(connection, service.port)
        assert forward.path.is_plain
        async with forward.listening() as port:
            await check_transfers(service, port, 2 * MIB)


async def test_another_cipher_takes_the_plain_way_with_one_warning(
    sshd: Sshd, caplog: pytest.LogCaptureFixture
) -> None:
    packet_path._warn_once.cache_clear()
    async with SinkSource() as service, login(sshd, "aes128-ctr") as connection, login(sshd, "aes128-ctr") as other:
        forward = PathForward(connection, service.port)
        PathForward(other, service.port)
        assert forward.path.is_plain
        async with forward.listening() as port:
            sent, came = await upload("127.0.0.1", port, MIB)
            assert sent == came
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["packets of channels pass through asyncssh, which is slower: there is no codec for aes128-ctr"]


async def test_compressed_packets_take_the_plain_way_until_the_end(sshd: Sshd) -> None:
    async with SinkSource() as service, login(sshd, compression_algs=["zlib@openssh.com"]) as connection:
        assert connection.get_extra_info("send_compression") == "zlib@openssh.com"
        sent = calls(connection, "send_packet")
        forward = PathForward(connection, service.port)
        async with forward.listening() as port:
            await check_transfers(service, port, 2 * MIB)
        assert len(sent) >= 2 * MIB // (32 << 10)


async def test_the_environment_can_choose_the_plain_way(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLAIN_VARIABLE, "1")
    async with login(sshd) as connection:
        assert PathForward(connection, 1).path.is_plain


@each_cipher
async def test_a_wrong_tag_ends_the_connection_as_asyncssh_does(sshd: Sshd, cipher: str) -> None:
    async with EchoServer() as echo, login(sshd, cipher) as connection:
        forward = PathForward(connection, echo.port)
        async with forward.listening() as port, connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            # As if the packet had been changed on its way: neither the codec nor asyncssh accepts it.
            forward.path._packets = _Flipping(forward.path._packets)  # type: ignore[assignment]
            writer.write(b"ping")
            assert isinstance(await client_of(connection).ended, asyncssh.MACError)


class _Flipping:
    """Changes the last byte of what is read: a part of the tag."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, data: memoryview, *args: Any) -> Any:
        if data:
            data[-1] ^= 1
        return self._reader.read(data, *args)

    def has_packet(self, data: memoryview) -> Any:
        return self._reader.has_packet(data)


@each_way
async def test_an_error_of_the_handler_ends_the_connection_with_its_reason(
    sshd: Sshd, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with login(sshd) as connection:
        forward = PathForward(connection, 1, plain=plain)

        def received(_kind: int, _payload: memoryview) -> bool:
            raise asyncssh.ProtocolError("the reason")

        monkeypatch.setattr(forward, "received", received)
        forward.open(None)  # type: ignore[arg-type]
        error = await client_of(connection).ended
        assert isinstance(error, asyncssh.ProtocolError)
        assert error.reason == "the reason"
    await eventually(lambda: "the reason" in sshd.log_text())


async def test_a_closed_connection_takes_packets_without_an_error(sshd: Sshd) -> None:
    async with login(sshd) as connection:
        forward = PathForward(connection, 1)
        connection.abort()
        forward.send(b"\x5e" + bytes(8) + b"data")
        await client_of(connection).ended
        forward.send(b"\x5e" + bytes(8) + b"data")
