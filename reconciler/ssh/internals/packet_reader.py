"""Splits received bytes into packets and opens them: those of own channels for the handler, the others for asyncssh.

No IO: bytes in, calls out. One rule for each packet (`AsyncsshState.opening_codec`) decides whether it may be opened
here. The handler decides whether it is the handler's. All other packets go to asyncssh as they were received,
encrypted: it verifies them itself, its state stays the one that it would have without this reader, and a packet with a
wrong tag ends the connection in asyncssh's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from reconciler.ssh.internals.codec_aead import BODY_MAX, LENGTH, SEQ_MASK, TAG, Codec

CHANNEL_FIRST, CHANNEL_LAST = 90, 100  # the messages of RFC 4254 section 5
DATA = 94
CHECKED = 4  # packets after which `may_go_on` is asked again
BODY_MIN = 2  # bytes: the length of the padding, and a message number
OPENED_MAX = 36 << 10  # bytes of a body that is opened here. A packet of data has 32 KiB and a little more
HEADER = 16  # bytes with which asyncssh reads the length of any packet


class ReaderState(Protocol):
    """The part of `AsyncsshState` that a reader uses."""

    @property
    def is_idle(self) -> bool: ...
    @property
    def recv_seq(self) -> int: ...
    def opening_codec(self) -> Codec | None: ...
    def recv_codec(self) -> Codec | None: ...
    def set_recv_seq(self, seq: int) -> None: ...
    def hand_over(self, data: memoryview) -> None: ...
    def refuse_length(self, start: memoryview) -> None: ...


ReceiveData = Callable[[memoryview], bool]
Received = Callable[[int, memoryview], bool]


class PacketReader:
    """Reads the packets of one connection."""

    def __init__(self, state: ReaderState, receive_data: ReceiveData, received: Received) -> None:
        """`receive_data`: is given the payloads of data; returns False if a packet is for `received`.

        `received`: is given the message number and the payload; returns False if the packet is asyncssh's.
        """
        self._state = state
        self._receive_data = receive_data
        self._received = received
        self._codec: Codec | None = None  # the codec that has the nonce; None while asyncssh's own is up to date
        self._seq = 0  # of the next packet, if there is a codec

    def read(self, data: memoryview, plain: memoryview, may_go_on: Callable[[], bool]) -> int:
        """Process the packets at the start of `data` and return how many bytes they have.

        It stops at an incomplete packet, when `may_go_on` returns False, and when asyncssh handles a packet in a task.
        `plain` is at least as long as `data`. Payloads are views of it: the next call overwrites them. Both may be the
        same memory if `plain` begins at least OPENED_MAX bytes before `data`: a payload then overwrites only packets
        that were processed before it.
        """
        state = self._state
        at = used = 0
        while True:
            codec = state.opening_codec()
            if codec is not None:
                if codec is not self._codec:
                    self._give_back()
                    self._codec, self._seq = codec, state.recv_seq
                    codec.begin(self._seq)
                at, used, has_time = self._read_own(codec, data, at, plain, used, may_go_on)
                if at == len(data) or not has_time:
                    return at
            elif not state.is_idle:
                return at
            else:
                codec = state.recv_codec()
            if codec is None:
                if at < len(data):
                    self._give_back()
                    state.hand_over(data[at:])
                return len(data)
            after = self._hand_over(codec, data, at)
            if after == at:
                return at
            at = after
            if not may_go_on():
                return at

    def has_packet(self, data: memoryview) -> bool:
        """Return True if `read` could process a packet at the start of these bytes."""
        codec = self._state.recv_codec()
        if codec is None:
            return len(data) > 0
        if len(data) < LENGTH:
            return False
        length = codec.length(self._next_seq, data, 0)
        return length <= BODY_MAX and LENGTH + length + TAG <= len(data)

    def _hand_over(self, codec: Codec, data: memoryview, at: int) -> int:
        """Give the frame at `at` to asyncssh. Return where it ends, `at` if it is incomplete or too long."""
        if len(data) - at < LENGTH:
            return at
        length = codec.length(self._next_seq, data, at)
        after = at + LENGTH + length + TAG
        if length > BODY_MAX:
            if len(data) - at >= HEADER:
                self._give_back()
                self._state.refuse_length(data[at : at + HEADER])
            return at
        if after > len(data):
            return at
        self._give_back()
        self._state.hand_over(data[at:after])
        return after

    @property
    def _next_seq(self) -> int:
        return self._seq if self._codec is not None else self._state.recv_seq

    def _give_back(self) -> None:
        """Bring asyncssh's counters up to date: it is about to use them."""
        if self._codec is not None:
            self._codec.end(self._seq)
            self._state.set_recv_seq(self._seq & SEQ_MASK)
            self._codec = None

    def _read_own(
        self, codec: Codec, data: memoryview, at: int, plain: memoryview, used: int, may_go_on: Callable[[], bool]
    ) -> tuple[int, int, bool]:
        """Give the packets from `at` on to the handler, until one is asyncssh's, too long, not valid or incomplete.

        `used`: bytes of `plain` that hold payloads. Return both, and False when `may_go_on` returned False.
        """
        # Nearly all packets pass here. So this method avoids calls.
        receive_data, end, unchecked = self._receive_data, len(data), 0
        seq = self._seq
        try:
            while end - at >= LENGTH:
                length = codec.length(seq, data, at)
                after = at + LENGTH + length + TAG
                if after > end or not BODY_MIN <= length <= OPENED_MAX:
                    break
                body = plain[used : used + length]
                if not codec.open(seq, data, at, body):
                    break
                stop = length - body[0]
                if stop < BODY_MIN or not CHANNEL_FIRST <= (kind := body[1]) <= CHANNEL_LAST:
                    break
                payload = body[1:stop]
                if not (kind == DATA and receive_data(payload)) and not self._received(kind, payload):
                    break
                seq += 1
                at, used, unchecked = after, used + length, unchecked + 1
                if unchecked == CHECKED:
                    unchecked = 0
                    if not may_go_on():
                        return at, used, False
        finally:
            self._seq = seq
        return at, used, True
