"""The socket of a client connection: accepted here, or connected to a destination from here.

Owns the descriptor, its place in the budget, and the bytes that the client has not taken. Input: calls of its relay, or
of the SOCKS handshake. Output: readiness and the end of the socket, to its relay. Nothing is read unless something asks
for it: the data of a held client stays in the kernel, which limits it, but for what a handshake puts back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from reconciler.core.descriptor_budget import ClientPlace
from reconciler.system.event_loop.readiness import DescriptorWatcher, watcher

RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST, which a client cannot mistake for EOF
EOF = -1  # what `read_into` returns at the end of the client's bytes
_PIECES_MAX = 256  # of one sendmsg: the system refuses more than 1,024 (IOV_MAX)
_DISCARDED = 64 << 10  # bytes of one read that is not used


class SocketOwner(Protocol):
    """Receives the events of a socket: a relay, or a SOCKS handshake."""

    def client_readable(self) -> None: ...

    def client_took(self, count: int) -> None:
        """The client took `count` bytes that it had not taken at once."""

    def client_lost(self) -> None: ...


class ClientSocket:
    """A socket.

    place  its place in the descriptor budget, given back when it is closed
    relay  receives its events, None before there is one
    lost   it is closed
    watched  its relay is told when there are bytes to read
    """

    __slots__ = (
        "_closing",
        "_eof",
        "_fd",
        "_put_back",
        "_unsent",
        "_watcher",
        "_writing",
        "lost",
        "place",
        "relay",
        "sock",
        "watched",
    )

    def __init__(self, sock: socket.socket | None = None, place: ClientPlace | None = None) -> None:
        """`sock`: non-blocking and connected; None: `attach` is called later."""
        self.place = place
        self.relay: SocketOwner | None = None
        self.lost = False
        self._put_back = b""  # read, and to be read again
        self._unsent = bytearray()
        self.watched = False
        self._writing = False  # watched for room
        self._eof = False  # EOF follows the unsent bytes
        self._closing = False  # the end follows the unsent bytes
        self.sock: socket.socket | None = None
        self._watcher: DescriptorWatcher
        if sock is not None:
            self.attach(sock)

    def attach(self, sock: socket.socket) -> None:
        """Use a socket that is connected and non-blocking, and for TCP has TCP_NODELAY."""
        self.sock = sock
        self._fd = sock.fileno()  # for the loop: it formats the repr of an unknown socket
        self._watcher = watcher()

    # --- reading -----------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Tell the relay when there are bytes to read, again and again until `unwatch`."""
        if not self.watched and self.sock is not None and self.relay is not None and not self._closing:
            self.watched = True
            self._watcher.add_reader(self._fd, self.relay.client_readable)

    def unwatch(self) -> None:
        if self.watched:
            self.watched = False
            self._watcher.remove_reader(self._fd)

    def read_into(self, space: Sequence[memoryview]) -> int:
        """Return how many bytes were read, 0 if there are none for now or the socket is lost, EOF at their end."""
        assert self.sock is not None
        if self.lost:
            return 0
        if self._put_back:
            return self._read_again(space[0])
        try:
            return (self.sock.recv_into(space[0]) if len(space) == 1 else self.sock.recvmsg_into(space)[0]) or EOF
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._close()
            return 0

    def put_back(self, data: bytes) -> None:
        """Let `read_into` return these bytes first. Once for each socket, before its relay starts."""
        self._put_back = data

    def _read_again(self, space: memoryview) -> int:
        count = min(len(space), len(self._put_back))
        space[:count] = self._put_back[:count]
        self._put_back = self._put_back[count:]
        return count

    async def _discard_all(self) -> None:
        """Read until the client closes its side or leaves, and drop the bytes."""
        buffer = memoryview(bytearray(_DISCARDED))
        while not self.lost and (count := self.read_into([buffer])) != EOF:
            if not count and not self.lost:
                await self._readable()

    async def _readable(self) -> None:
        """Return when there are bytes to read, EOF or an error."""
        readable = asyncio.Event()
        self.watched = True
        self._watcher.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            self.unwatch()

    # --- writing -----------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken."""
        return len(self._unsent)

    def write(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Write the pieces, and keep a copy of what the client does not take. Return how many bytes it took."""
        if self.lost or self._closing or self.sock is None:
            return 0
        if self._unsent:
            for piece in pieces:
                self._unsent += piece
            return 0
        if len(pieces) > _PIECES_MAX:
            pieces = (b"".join(pieces),)
        try:
            taken = self.sock.send(pieces[0]) if len(pieces) == 1 else self.sock.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError:
            self._close()
            return 0
        if len(pieces) != 1 or taken != len(pieces[0]):
            self._keep(pieces, taken)
        return taken

    def _keep(self, pieces: Sequence[bytes | memoryview], taken: int) -> None:
        """Keep a copy of what the client did not take."""
        for piece in pieces:
            if taken < len(piece):
                self._unsent += piece[taken:]
            taken = max(0, taken - len(piece))
        if self._unsent:
            self._writing = True
            self._watcher.add_writer(self._fd, self._write_more)

    def _write_more(self) -> None:
        assert self.sock is not None
        try:
            taken = self.sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close()
            return
        del self._unsent[:taken]
        if not self._unsent:
            self._unsent = bytearray()  # the emptied one keeps its memory
            self._writing = False
            self._watcher.remove_writer(self._fd)
            self._after_unsent()
        if self.relay is not None and taken:
            self.relay.client_took(taken)

    def _after_unsent(self) -> None:
        if self._closing:
            self._close()
        elif self._eof and self.sock is not None:
            # This fails for a socket that was reset just now; its loss is found by the next call.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def write_eof(self) -> None:
        """Send EOF after what is unsent."""
        if not self._eof and not self.lost and not self._closing:
            self._eof = True
            if not self._unsent:
                self._after_unsent()

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close after what is unsent. Nothing is read any more."""
        if not self.lost and not self._closing:
            self.unwatch()
            self._closing = True
            if not self._unsent:
                self._close()

    def reset(self) -> None:
        """Close at once: with RST on TCP. The client of a unix socket sees EOF."""
        if self.sock is not None and not self.lost and self.sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # macOS: fails if the client has reset the connection
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._close()

    async def refuse(self, reply: bytes, grace: float) -> None:
        """Send a last reply, then discard what the client sends until it closes, for at most `grace` seconds.

        Closing a socket with unread data resets it, and a reset may lose the reply.
        """
        self.unwatch()
        self.write((reply,))
        self.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._discard_all()
        self._close()

    def _close(self) -> None:
        if self.lost:
            return
        self.unwatch()
        self.lost = True
        if self.sock is not None:
            if self._writing:
                self._watcher.remove_writer(self._fd)
            self.sock.close()
        self._unsent = bytearray()
        if self.place is not None:
            self.place.give_back()
        relay, self.relay = self.relay, None  # the reference cycle would last until a full collection
        if relay is not None:
            relay.client_lost()
