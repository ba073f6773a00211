"""The socket side of a client connection.

Owns the transport of a client that connected here, or of a destination that was dialled from here. Input: the socket's
events. Output: the same events, to its `relay`. Before there is a relay, only `receive` reads: the data of a held
client stays in the kernel, which limits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from reconciler.core.descriptor_budget import ClientPlace


class Owner(Protocol):
    """Receives the events of a socket: a relay."""

    def client_data(self, data: memoryview) -> None:
        """Take received bytes. `data` is valid during the call only."""

    def client_eof(self) -> None: ...

    def client_full(self) -> None: ...

    def client_drained(self) -> None: ...

    def client_lost(self) -> None: ...


_LEFT = "the client left during the handshake"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST, which a client cannot mistake for EOF

# One read buffer for all connections: its content is passed on before the loop reads the next socket. 64 KiB are two
# SSH packets, so that no client gets far ahead of the others in one iteration of the loop.
_BUFFER = bytearray(65536)
_VIEW = memoryview(_BUFFER)


class ClientTransport(asyncio.BufferedProtocol):
    """The protocol of a client's socket. `made` is called once, when there is a transport."""

    def __init__(self, made: Callable[[ClientTransport], None], place: ClientPlace | None = None) -> None:
        """`place`: the descriptor's place in the budget, released when the socket is closed."""
        self._made = made
        self.place = place
        self.transport: asyncio.Transport
        self.relay: Owner | None = None
        self.lost = False
        self._receive_limit = 0  # most bytes that the running `receive` may read
        self._received: asyncio.Future[bytes] | None = None
        self._discarding: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()
        # asyncio starts to read after this call; in Python 3.11.2 (Debian 12) even if reading is paused.
        asyncio.get_running_loop().call_soon(self._pause_again)
        self._made(self)

    def _pause_again(self) -> None:
        if not self.transport.is_reading():
            self.transport.resume_reading()
            self.transport.pause_reading()

    async def receive(self, limit: int) -> bytes:
        """Read 1 to `limit` bytes before there is a relay. Raises ConnectionResetError if the client leaves."""
        if self.lost:
            raise ConnectionResetError(_LEFT)
        self._receive_limit = limit
        self._received = asyncio.get_running_loop().create_future()
        self.transport.resume_reading()
        try:
            return await self._received
        finally:
            self._received = None
            if not self.lost:
                self.transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _VIEW if self._received is None else _VIEW[: self._receive_limit]

    def buffer_updated(self, nbytes: int) -> None:
        if self._discarding is not None:
            return
        if self.relay is not None:
            self.relay.client_data(_VIEW[:nbytes])
        elif self._received is not None and not self._received.done():
            self.transport.pause_reading()
            self._received.set_result(bytes(_VIEW[:nbytes]))

    def eof_received(self) -> bool:
        if self.relay is None or self._discarding is not None:
            return False  # close: the client left during the handshake, or after it was refused
        self.relay.client_eof()
        return True  # half-close: the other direction continues

    def pause_writing(self) -> None:
        if self.relay is not None:
            self.relay.client_full()

    def resume_writing(self) -> None:
        if self.relay is not None:
            self.relay.client_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.place is not None:
            self.place.give_back()
        relay, self.relay = self.relay, None  # the reference cycle would last until a full collection
        if relay is not None:
            relay.client_lost()
        if self._received is not None and not self._received.done():
            self._received.set_exception(ConnectionResetError(_LEFT))
        if self._discarding is not None and not self._discarding.done():
            self._discarding.set_result(None)

    def write_eof(self) -> None:
        """Send EOF. This fails for a socket that was reset just now; its loss is reported next."""
        # asyncio raises shutdown's error; in a channel's callback it would end the whole SSH connection.
        with contextlib.suppress(OSError):
            self.transport.write_eof()

    async def refuse(self, reply: bytes, grace: float) -> None:
        """Send a last reply, then discard what the client sends until it closes, for at most `grace` seconds.

        Closing a socket with unread data resets it, and a reset may lose the reply.
        """
        self._discarding = asyncio.get_running_loop().create_future()
        self.transport.write(reply)
        self.write_eof()
        self.transport.resume_reading()
        try:
            async with asyncio.timeout(grace):
                await self._discarding
        except TimeoutError:
            self.transport.abort()

    def reset(self) -> None:
        """Close at once: with RST on TCP. The client of a unix socket sees EOF."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and not self.lost:
            with contextlib.suppress(OSError):  # macOS: fails if the client has reset the connection
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()
