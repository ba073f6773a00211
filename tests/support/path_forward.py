"""A local forward over a `PacketPath`: one listener, one direct-tcpip channel for each client. Enough for tests.

It has no limits, no timeouts and no fairness. Input: an asyncssh connection that has logged in. The program's own
channels are in `reconciler/ssh/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncssh

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.messages import DirectTcp, Packet
from reconciler.ssh.internals.asyncssh_state import FIRST_CHANNEL
from reconciler.ssh.internals.packet_path import PacketPath

WINDOW = 2 << 20
PACKET = 32 << 10
_READ = 256 << 10
_memory = memoryview(bytearray(_READ))


class PathForward:
    """The handler of a path, and the channels of its clients."""

    def __init__(self, connection: asyncssh.SSHClientConnection, to: int, *, plain: bool = False) -> None:
        self.path = PacketPath(connection, self, plain=plain)
        self.to = to
        self._next = FIRST_CHANNEL
        self._channels: dict[int, _Client] = {}
        self._touched: dict[_Client, None] = {}
        self._unsent: deque[bytes] = deque()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen, and yield the port."""
        server = await asyncio.get_running_loop().create_server(lambda: _Client(self), "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for client in list(self._channels.values()):
                client.abort()

    def open(self, client: _Client) -> int:
        number = self._next
        self._next += 1
        self._channels[number] = client
        destination = DirectTcp("127.0.0.1", self.to, "127.0.0.1", 0)
        self.send(messages.open_channel(number, WINDOW, PACKET, destination))
        return number

    def send(self, *packets: bytes) -> None:
        self._unsent.extend(packets)
        if self.path.send(self):
            asyncio.get_running_loop().call_soon(self.send)

    @property
    def pending(self) -> bool:
        return bool(self._unsent)

    def write_packets(self, rooms: Sequence[memoryview]) -> Sequence[int]:
        packet = self._unsent.popleft()
        rooms[0][: len(packet)] = packet
        return (len(packet),)

    def forget(self, number: int) -> None:
        del self._channels[number]

    # --- the path's handler ------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        pass

    def receive_data(self, payload: memoryview) -> bool:
        return self.received(Packet.DATA, payload)

    def received(self, kind: int, payload: memoryview) -> bool:
        if kind == Packet.OPEN or (client := self._channels.get(int.from_bytes(payload[1:5]))) is None:
            return False
        client.process(kind, payload)
        self._touched[client] = None
        return True

    def batch_ended(self) -> None:
        touched, self._touched = self._touched, {}
        for client in touched:
            client.deliver()

    def writable(self) -> None:
        self.send()
        for client in list(self._channels.values()):
            client.go_on()


class _Client(asyncio.BufferedProtocol):
    """A client and its channel."""

    def __init__(self, forward: PathForward) -> None:
        self._forward = forward
        self._path = forward.path
        self._transport: Any = None
        self._number = self._peer = -1
        self._window = self._size = 0  # what the server takes
        self._consumed = 0
        self._undelivered: list[memoryview] = []
        self._paused = True
        self._full = False
        self._closed = self._eof_sent = self._eof_received = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.pause_reading()
        self._number = self._forward.open(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _memory[: min(_READ, self._window)]

    def buffer_updated(self, nbytes: int) -> None:
        self._window -= nbytes
        starts = range(0, nbytes, self._size)
        pieces = [bytes(_memory[start : min(start + self._size, nbytes)]) for start in starts]
        self._forward.send(
            *(struct.pack(">BII", Packet.DATA, self._peer, len(piece)) + piece for piece in pieces),
        )
        self._stop_or_go()

    def go_on(self) -> None:
        if self._size:
            self._stop_or_go()

    def _stop_or_go(self) -> None:
        stop = self._path.full or not self._window or self._closed
        if stop is not self._paused and not self._eof_received:
            self._paused = stop
            self._transport.pause_reading() if stop else self._transport.resume_reading()

    def eof_received(self) -> bool:
        self._eof_received = True
        self._forward.send(messages.short(Packet.EOF, self._peer))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()

    def abort(self) -> None:
        self._transport.abort()

    def _close(self) -> None:
        if not self._closed and self._peer >= 0:
            self._closed = True
            self._forward.send(messages.short(Packet.CLOSE, self._peer))

    def process(self, kind: int, payload: memoryview) -> None:
        match kind:
            case Packet.OPEN_CONFIRMATION:
                _, self._peer, self._window, self._size = struct.unpack_from(">IIII", payload, 1)
                self._stop_or_go()
            case Packet.OPEN_FAILURE:
                self._forward.forget(self._number)
                self._transport.abort()
            case Packet.WINDOW_ADJUST:
                self._window += int.from_bytes(payload[5:9])
                self._stop_or_go()
            case Packet.DATA:
                self._undelivered.append(payload[9:])
            case Packet.EOF:
                self.deliver()
                self._transport.write_eof()
            case Packet.CLOSE:
                self.deliver()
                self._close()
                self._forward.forget(self._number)
                self._transport.close()
            case _:
                raise AssertionError(f"unexpected message {kind}")

    def deliver(self) -> None:
        views, self._undelivered = self._undelivered, []
        if not views:
            return
        length = sum(map(len, views))
        if self._transport.is_closing():
            return
        if not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):
                sent = self._transport.get_extra_info("socket")._sock.sendmsg(views)
                while views and sent >= len(views[0]):
                    sent -= len(views.pop(0))
                if views:
                    views[0] = views[0][sent:]
        if views:
            self._transport.write(b"".join(views))
        self._consumed += length
        if not self._full:
            self._adjust()

    def _adjust(self) -> None:
        if self._consumed >= WINDOW // 8 and not self._closed:
            consumed, self._consumed = self._consumed, 0
            self._forward.send(messages.window_adjust(self._peer, consumed))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._adjust()
