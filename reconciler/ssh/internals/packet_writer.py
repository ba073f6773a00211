"""Seals packets into one buffer, so that one system call writes several.

No IO: packets in, a view of the buffer to `write`. One rule for each packet (`AsyncsshState.send_codec`) decides
whether it is sealed here; the others go through asyncssh, after those that were sealed before.

All writers of a process share the buffer: it is in use only while one of them adds packets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from reconciler.ssh.internals.codec_aead import LENGTH, TAG, Codec, padding

SEALED_MAX = 256 << 10  # bytes that are written at once
PAYLOAD_MAX = 64 << 10  # bytes of a packet
ROOMS = 4  # packets that one system call may read from a client
_HEAD_ROOM = 1  # bytes of a body before its payload: the length of its padding
_PADDING_ROOM = 20  # most bytes of a body after its payload
_BODY_MAX = _HEAD_ROOM + PAYLOAD_MAX + _PADDING_ROOM


class WriterState(Protocol):
    """The part of `AsyncsshState` that a writer uses."""

    def send_codec(self) -> Codec | None: ...
    def count_sent(self, body: int) -> int: ...
    def send_packet(self, payload: memoryview) -> None: ...


class SendBuffer:
    """The memory in which packets are sealed, and the writer that uses it."""

    def __init__(self) -> None:
        self.frames = memoryview(bytearray(SEALED_MAX + LENGTH + _BODY_MAX + TAG))
        self.bodies = tuple(memoryview(bytearray(_BODY_MAX)) for _ in range(ROOMS))
        self.rooms = tuple(body[_HEAD_ROOM : _HEAD_ROOM + PAYLOAD_MAX] for body in self.bodies)
        self.used = 0
        self.writer: PacketWriter | None = None

    def claim(self, writer: PacketWriter) -> None:
        """Give the buffer to another writer. The one before writes what it has sealed."""
        if self.writer is not None:
            self.writer.flush()
        self.writer = writer


class PacketWriter:
    """Writes the packets of one connection."""

    def __init__(self, state: WriterState, write: Callable[[memoryview], None], buffer: SendBuffer) -> None:
        """`write`: sends the bytes or copies them; the view is valid during the call."""
        self._state = state
        self._write = write
        self._buffer = buffer
        self.rooms = buffer.rooms  # for the payloads of the next packets
        self._padding = os.urandom(_PADDING_ROOM)  # the cipher makes it different for each packet

    def add(self, room: int, length: int) -> None:
        """Seal the packet in the room of this number. Its payload, with the message number, has `length` bytes."""
        codec = self._state.send_codec()
        if codec is None:
            self._state.send_packet(self.rooms[room][:length])
            return
        buffer = self._buffer
        if buffer.writer is not self:
            buffer.claim(self)
        pad, end = padding(codec, length), _HEAD_ROOM + length
        body = buffer.bodies[room][: end + pad]
        body[0] = pad
        body[end:] = self._padding[:pad]
        frame_end = buffer.used + LENGTH + len(body) + TAG
        codec.seal(self._state.count_sent(len(body)), body, buffer.frames[buffer.used : frame_end])
        buffer.used = frame_end
        if frame_end >= SEALED_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is sealed."""
        buffer = self._buffer
        if buffer.writer is self and buffer.used:
            used, buffer.used = buffer.used, 0
            self._write(buffer.frames[:used])
