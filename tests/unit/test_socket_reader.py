"""Reading a socket for a protocol: data, pauses, the end and errors are those that the transport would give."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from reconciler.system.event_loop.socket_reader import SocketReader
from support.wait import eventually

pytestmark = pytest.mark.each_loop


class Collecting(asyncio.BufferedProtocol):
    """Collects what arrives."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.has_ended = False
        self.lost: list[Exception | None] = []
        self._buffer = bytearray(100)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._buffer[:nbytes]

    def eof_received(self) -> None:
        self.has_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.reader.close()
        self.lost.append(exc or self.reader.error)

    reader: SocketReader


@contextlib.asynccontextmanager
async def reading() -> AsyncIterator[tuple[Collecting, asyncio.Transport, socket.socket]]:
    """Yield the protocol, its transport and the peer."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as near:
        peer, _ = listener.accept()
        with peer:
            near.setblocking(False)
            protocol = Collecting()
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
            protocol.reader = SocketReader(transport, protocol)
            try:
                yield protocol, transport, peer
            finally:
                transport.abort()
                await eventually(lambda: len(protocol.lost) > 0)


async def test_data_longer_than_the_buffer_arrives_in_order() -> None:
    async with reading() as (protocol, _, peer):
        sent = bytes(range(250))
        peer.sendall(sent)
        await eventually(lambda: len(protocol.data) == len(sent))
        assert protocol.data == sent


async def test_nothing_is_read_while_either_side_has_stopped_it() -> None:
    async with reading() as (protocol, _, peer):
        reader = protocol.reader
        reader.stop()
        reader.pause_reading()
        peer.sendall(b"x")
        reader.start()
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.data == b""
        reader.resume_reading()
        assert reader.is_reading
        await eventually(lambda: protocol.data == b"x")


async def test_the_end_reaches_the_protocol_after_the_data() -> None:
    async with reading() as (protocol, _, peer):
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        await eventually(lambda: protocol.has_ended)
        assert protocol.data == b"last"
        await eventually(lambda: protocol.lost == [None])


async def test_the_error_of_a_read_is_known_when_the_connection_is_lost() -> None:
    async with reading() as (protocol, _, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await eventually(lambda: len(protocol.lost) > 0)
        assert isinstance(protocol.lost[0], ConnectionResetError)


async def test_nothing_is_read_from_a_transport_that_is_closing() -> None:
    async with reading() as (protocol, transport, peer):
        peer.sendall(b"late")
        transport.close()
        await eventually(lambda: len(protocol.lost) > 0)
        assert protocol.data == b""
        assert not protocol.has_ended
