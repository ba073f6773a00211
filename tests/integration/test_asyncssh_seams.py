"""What the packet path uses of asyncssh below its documented API: each name, and how asyncssh uses it.

A failure here means that this version of asyncssh differs: see the plain way in `packet_path`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import SSHPacket

from integration.packet_paths import calls, client_of, each_cipher, login
from reconciler.ssh.internals import packet_path
from reconciler.ssh.internals.asyncssh_state import FIRST_CHANNEL, AsyncsshState
from support.path_forward import PathForward
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.wait import eventually

SESSION = b"\0\0\0\x07session"
SIZES = (2 << 20).to_bytes(4) + (32 << 10).to_bytes(4)  # window and packet


async def test_without_a_name_packets_take_the_plain_way_with_one_warning(
    sshd: Sshd, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    packet_path._warn_once.cache_clear()
    monkeypatch.setattr(packet_path, "_problems", lambda: ["has no SSHClientConnection._renamed"])
    async with EchoServer() as echo, login(sshd) as connection, login(sshd) as other:
        forward = PathForward(connection, echo.port)
        PathForward(other, echo.port)
        async with forward.listening() as port:
            assert await exchange("127.0.0.1", port, b"ping") == b"ping"
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "has no SSHClientConnection._renamed" in warnings[0]


@each_cipher
async def test_the_start_of_a_packet_can_be_taken_back_from_the_parser(sshd: Sshd, cipher: str) -> None:
    async with login(sshd, cipher) as connection:
        state = AsyncsshState(connection)
        for size in (1, 8, 15, 16, 17, 25):  # less, as much and more than the part that asyncssh decrypts first
            encryption: Any = connection._recv_encryption
            start = b"".join(encryption.encrypt_packet(state.recv_seq, (64).to_bytes(4), bytes(64)))[:size]
            state.hand_over(memoryview(start))
            assert state.is_idle
            assert state.reclaim() == start
            assert state.reclaim() == b""


@each_cipher
async def test_our_packets_and_asyncsshs_count_alike(sshd: Sshd, cipher: str) -> None:
    async with login(sshd, cipher) as connection:
        forward = PathForward(connection, 1)
        counters: Any = connection
        await connection._make_global_request(b"keepalive@openssh.com")

        def counted() -> tuple[int, int]:
            return counters._send_seq, counters._rekey_bytes_sent

        ignored = b"\x02" + (100).to_bytes(4) + bytes(100)  # SSH_MSG_IGNORE
        before = counted()
        forward.send(ignored)
        ours = counted()
        connection.send_packet(2, ignored[1:])
        theirs = counted()
        assert [new - old for new, old in zip(ours, before, strict=True)] == [
            new - old for new, old in zip(theirs, ours, strict=True)
        ]
        # The server accepts what follows only if both sequence numbers and nonces are right.
        await connection._make_global_request(b"keepalive@openssh.com")


async def test_asyncssh_calls_the_replaced_methods_on_the_connection(sshd: Sshd) -> None:
    async with login(sshd) as connection:
        names = ("_send", "_finish_recv_packet", "_send_deferred_packets", "process_packet")
        called = {name: calls(connection, name) for name in names}
        asyncssh_connection: Any = connection
        asyncssh_connection._send_kexinit()
        asyncssh_connection._kexinit_sent = True
        await eventually(lambda: all(called.values()))


async def test_a_packet_that_asyncssh_handles_in_a_task_ends_with_idle(sshd: Sshd) -> None:
    async with login(sshd) as connection:
        state = AsyncsshState(connection)
        idle = asyncio.Event()
        state.on_idle = idle.set
        asyncssh_connection: Any = connection
        asyncssh_connection._send_kexinit()
        asyncssh_connection._kexinit_sent = True
        await idle.wait()
        assert state.is_idle


async def test_asyncssh_gives_packets_for_own_numbers_to_an_object_of_another_class(sshd: Sshd) -> None:
    async with login(sshd) as connection:
        state = AsyncsshState(connection)
        got: list[tuple[int, bytes]] = []

        def received(kind: int, payload: memoryview) -> bool:
            got.append((kind, bytes(payload)))
            return True

        state.on_plain_packet = received
        number = (FIRST_CHANNEL + 5).to_bytes(4)
        state.send_packet(memoryview(b"\x5a" + SESSION + number + SIZES))
        await eventually(lambda: got)
        kind, payload = got[0]
        assert kind == payload[0] == 91
        assert payload[1:5] == number
        state.send_packet(memoryview(b"\x61" + payload[5:9]))  # CHANNEL_CLOSE
        await eventually(lambda: got[-1] == (97, b"\x61" + number))
        assert not connection._channels
        connection.close()
        assert await client_of(connection).ended is None


async def test_a_number_below_the_own_ones_that_is_not_in_use_ends_the_connection(sshd: Sshd) -> None:
    async with login(sshd) as connection:
        state = AsyncsshState(connection)
        state.on_plain_packet = lambda kind, _payload: kind == 91
        state.send_packet(memoryview(b"\x5a" + SESSION + bytes(4) + SIZES))
        state.send_packet(memoryview(b"\x61" + bytes(4)))
        error = await client_of(connection).ended
        assert isinstance(error, asyncssh.ProtocolError)
        assert "Invalid channel number" in error.reason


async def test_an_opening_packet_that_is_not_taken_reaches_asyncssh(sshd: Sshd) -> None:
    async with EchoServer() as echo, login(sshd) as connection:
        offered: list[int] = []
        state = AsyncsshState(connection)

        def received(kind: int, _payload: memoryview) -> bool:
            offered.append(kind)
            return False

        state.on_plain_packet = received
        _, writer = await connection.open_connection("127.0.0.1", echo.port)
        assert offered == [91]
        writer.close()
        await writer.wait_closed()


async def test_asyncssh_ends_the_connection_for_a_length_that_is_refused(sshd: Sshd) -> None:
    async with login(sshd) as connection:
        AsyncsshState(connection).refuse_length(memoryview((300 << 10).to_bytes(4) + bytes(12)))
        error = await client_of(connection).ended
        assert isinstance(error, asyncssh.ProtocolError)
        assert "packet size" in error.reason


def test_a_packet_gives_its_whole_payload() -> None:
    packet = SSHPacket(b"\x5e1234")
    packet.get_byte()
    assert packet.get_full_payload() == b"\x5e1234"
