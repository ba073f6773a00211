"""The socket side of a client connection, whoever opened it.

Owns the transport of a client that connected here, or of a destination that was dialled from here. In: the socket's
events. Out: the same, to its `relay`; before there is one, bytes go to `early` (a handshake), if anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol


class Owner(Protocol):
    """What a socket tells its relay."""

    def near_data(self, data: memoryview) -> None:
        """`data` is valid during the call only."""

    def near_eof(self) -> None: ...

    def near_full(self) -> None: ...

    def near_drained(self) -> None: ...

    def near_lost(self) -> None: ...


RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST, so that a client cannot mistake it for EOF

# One read buffer serves all connections: what is read is handed on before the loop reads the next. 64 KiB: two SSH
# packets, so that no client gets far ahead of its neighbours in one turn of the loop.
_BUFFER = bytearray(65536)
_VIEW = memoryview(_BUFFER)


class Near(asyncio.BufferedProtocol):
    """The socket side. Until the relay starts, what a client says goes to `early` (a handshake), if anywhere."""

    def __init__(self, made: Callable[[Near], None]) -> None:
        self._made = made
        self.transport: asyncio.Transport
        self.relay: Owner | None = None
        self.early: Callable[[bytes], None] | None = None
        self.lost = False
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()
        # asyncio begins to read after this; that of Python 3.11.2 (Debian 12) also where it was told not to.
        asyncio.get_running_loop().call_soon(self._pause_again)
        self._made(self)

    def _pause_again(self) -> None:
        if not self.transport.is_reading():
            self.transport.resume_reading()
            self.transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _VIEW

    def buffer_updated(self, nbytes: int) -> None:
        if self.relay is not None:
            self.relay.near_data(_VIEW[:nbytes])
        elif self.early is not None:
            self.early(bytes(_VIEW[:nbytes]))

    def eof_received(self) -> bool:
        if self.relay is None:
            return False  # gone in the middle of a handshake
        self.relay.near_eof()
        return True  # half-close: the other direction goes on

    def pause_writing(self) -> None:
        if self.relay is not None:
            self.relay.near_full()

    def resume_writing(self) -> None:
        if self.relay is not None:
            self.relay.near_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.relay is not None:
            self.relay.near_lost()
        if self.on_lost is not None:
            self.on_lost()

    def write_eof(self) -> None:
        """Say that no more will come. One that was reset just now cannot be told, and its loss is heard of next."""
        # asyncio lets shutdown's error through; in a channel's callback it would end the whole SSH connection.
        with contextlib.suppress(OSError):
            self.transport.write_eof()

    def reset(self) -> None:
        """Close at once, with RST where the socket is TCP (a unix socket's client sees EOF, and cannot be told)."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and not self.lost:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()
