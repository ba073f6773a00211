"""Splits received bytes into packets and opens them: those of own channels for the handler, the others for asyncssh.

No IO: bytes in, calls out. One rule for each packet (`AsyncsshState.opens`) decides whether it may be opened here. The
handler decides whether it is the handler's. All other packets go to asyncssh as they were received, encrypted: it
verifies them itself, its state stays the one that it would have without this reader, and a packet with a wrong tag ends
the connection in asyncssh's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from reconciler.ssh.internals.codec_aead import LENGTH, TAG, Codec

CHANNEL_FIRST, CHANNEL_LAST = 90, 100  # the messages of RFC 4254 section 5
HEADER = 16  # bytes with which asyncssh reads the length of any packet


class ReaderState(Protocol):
    """The part of `AsyncsshState` that a reader uses."""

    @property
    def is_idle(self) -> bool: ...
    @property
    def transport(self) -> object | None: ...
    @property
    def recv_seq(self) -> int: ...
    def opens(self) -> bool: ...
    def recv_codec(self) -> Codec | None: ...
    def count_received(self) -> None: ...
    def frame_length(self, codec: Codec, start: memoryview) -> int: ...
    def hand_over(self, data: memoryview) -> bool: ...
    def refuse_length(self, start: memoryview) -> None: ...


Received = Callable[[int, memoryview], bool]


class PacketReader:
    """Reads the packets of one connection."""

    def __init__(self, state: ReaderState, received: Received) -> None:
        """`received`: is given the message number and the payload; returns False if the packet is asyncssh's."""
        self._state = state
        self._received = received

    def read(self, data: memoryview, plain: memoryview, may_go_on: Callable[[], bool]) -> int:
        """Process the packets at the start of `data` and return how many bytes they have.

        It stops at an incomplete packet, when `may_go_on` returns False, and when asyncssh handles a packet in a task.
        `plain` is at least as long as `data`. Payloads are views of it: the next call overwrites them.
        """
        state = self._state
        at, used = 0, 0
        if not state.is_idle:
            return 0
        # Both change with a packet of asyncssh's only.
        codec, opens = state.recv_codec(), state.opens()
        while len(data) - at >= LENGTH and state.transport is not None:
            if codec is None:
                state.hand_over(data[at:])
                return len(data)
            length = state.frame_length(codec, data[at : at + LENGTH])
            if not length:
                if len(data) - at >= HEADER:
                    state.refuse_length(data[at : at + HEADER])
                return at
            if length > len(data) - at:
                return at
            frame = data[at : at + length]
            body = plain[used : used + length - LENGTH - TAG]
            at += length
            if opens and self._open(codec, frame, body):
                used += len(body)
            else:
                if not state.hand_over(frame):
                    return at
                codec, opens = state.recv_codec(), state.opens()
            if not may_go_on():
                return at
        return at

    def has_packet(self, data: memoryview) -> bool:
        """Return True if `read` could process a packet at the start of these bytes."""
        codec = self._state.recv_codec()
        if codec is None:
            return len(data) > 0
        if len(data) < LENGTH:
            return False
        length = self._state.frame_length(codec, data[:LENGTH])
        return bool(length) and length <= len(data)

    def _open(self, codec: Codec, frame: memoryview, body: memoryview) -> bool:
        """Open a packet and give it to the handler. Return False if it is asyncssh's, or not valid."""
        state = self._state
        if len(body) < 2 or not codec.open(state.recv_seq, frame, body):
            return False
        end = len(body) - body[0]
        if end < 2 or not CHANNEL_FIRST <= (kind := body[1]) <= CHANNEL_LAST:
            return False
        if not self._received(kind, body[1:end]):
            return False
        codec.advance()
        state.count_received()
        return True
