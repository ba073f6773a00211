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
PAYLOAD_MAX = 256 << 10  # bytes of a packet
HEAD_ROOM = 1  # bytes that a body has before the head
PADDING_ROOM = 20  # bytes that a body has after its payload, at most
_BODY_MAX = HEAD_ROOM + PAYLOAD_MAX + PADDING_ROOM


class WriterState(Protocol):
    """The part of `AsyncsshState` that a writer uses."""

    @property
    def send_seq(self) -> int: ...
    def send_codec(self) -> Codec | None: ...
    def count_sent(self, body: int) -> None: ...
    def send_packet(self, head: bytes, payload: memoryview) -> None: ...


class SendBuffer:
    """The memory in which packets are sealed, and the writer that uses it."""

    def __init__(self) -> None:
        self.frames = memoryview(bytearray(SEALED_MAX + LENGTH + _BODY_MAX + TAG))
        self.body = memoryview(bytearray(_BODY_MAX))
        self.used = 0
        self.writer: PacketWriter | None = None

    def claim(self, writer: PacketWriter) -> None:
        """Give the buffer to a writer. The one before writes what it has sealed."""
        if self.writer is not writer:
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
        self.room = buffer.body[HEAD_ROOM : HEAD_ROOM + PAYLOAD_MAX]  # for `add_written`, until another packet is added
        self._padding = os.urandom(PADDING_ROOM)  # the cipher makes it different for each packet

    def add(self, head: bytes, payload: bytes | bytearray | memoryview = b"") -> None:
        """Seal a packet: its message number and fields, and what follows them."""
        codec = self._state.send_codec()
        if codec is None:
            self._state.send_packet(head, memoryview(payload))
            return
        length = len(head) + len(payload)
        self.room[: len(head)] = head
        self.room[len(head) : length] = payload
        self._seal(codec, self._buffer.body, HEAD_ROOM, HEAD_ROOM + length)

    def add_written(self, length: int) -> None:
        """Seal the packet whose payload is written to `room`."""
        codec = self._state.send_codec()
        if codec is None:
            self._state.send_packet(bytes(self.room[:length]), self.room[:0])
            return
        self._seal(codec, self._buffer.body, HEAD_ROOM, HEAD_ROOM + length)

    def add_in_place(self, head: bytes, memory: memoryview, start: int, end: int) -> None:
        """Seal a packet whose payload is `memory[start:end]`, without a copy of it.

        Overwrites the bytes before it: HEAD_ROOM and the length of `head`. Those after it, PADDING_ROOM at most, keep
        their values, so that a large read can be sealed in pieces, from its start to its end.
        """
        codec = self._state.send_codec()
        if codec is None:
            self._state.send_packet(head, memory[start:end])
            return
        after = bytes(memory[end : end + PADDING_ROOM])
        memory[start - len(head) : start] = head
        self._seal(codec, memory, start - len(head), end)
        memory[end : end + PADDING_ROOM] = after

    def flush(self) -> None:
        """Write what is sealed."""
        buffer = self._buffer
        if buffer.writer is self and buffer.used:
            used, buffer.used = buffer.used, 0
            self._write(buffer.frames[:used])

    def _seal(self, codec: Codec, memory: memoryview, start: int, end: int) -> None:
        """Seal the payload `memory[start:end]`, and overwrite what is around it with the rest of the body."""
        buffer = self._buffer
        buffer.claim(self)
        pad = padding(codec, end - start)
        memory[start - HEAD_ROOM] = pad
        memory[end : end + pad] = self._padding[:pad]
        body = memory[start - HEAD_ROOM : end + pad]
        frame_end = buffer.used + LENGTH + len(body) + TAG
        codec.seal(self._state.send_seq, body, buffer.frames[buffer.used : frame_end])
        buffer.used = frame_end
        self._state.count_sent(len(body))
        if frame_end >= SEALED_MAX:
            self.flush()
