"""The sending side of a channel: the peer's window (RFC 4254 section 5.2) and the channel's turn in the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reconciler.ssh.channels.messages import HEAD, WORD_MAX, put_head

PACKET_MAX: Final = 32 << 10  # bytes of data in one packet, both ways: as OpenSSH's CHAN_TCP_PACKET_DEFAULT
# A peer that takes less in one packet would make us send a packet for each few bytes.
PACKET_MIN: Final = 1 << 10
AHEAD_RATE: Final = 1 << 30  # bytes a second: what a path with a delay may hold of a channel, beside its share
STEP: Final = 4 << 10  # bytes that each adjustment lets be sent, at least, while what is on its way is reduced


class SendSide:
    """What may be sent on a channel. All figures are bytes.

    peer      the peer's number of the channel; known from the confirmation on
    sendable  most that the next packet may hold: 0 while the window is used up, or while nothing may be sent
    wants     the handler has bytes to send
    turn      what is left of its turn
    round     the round of its turn; -1 before the first
    listed    it is in a list of the schedule
    is_filled  the client filled all packets of the last read
    """

    __slots__ = (
        "_ahead",
        "_is_full",
        "_least",
        "_most",
        "_packet_max",
        "_spare",
        "_window",
        "is_filled",
        "listed",
        "peer",
        "round",
        "sendable",
        "turn",
        "wants",
    )

    def __init__(self) -> None:
        self.peer = 0
        self.sendable = 0
        self.wants = False
        self.listed = False
        self.turn = 0
        self.round = -1
        self._window = 0
        self._most = 0  # the largest window
        self._least = WORD_MAX  # the least adjustment
        self._spare = 0  # part of the window that is not used
        self._ahead = WORD_MAX  # bytes that may be on their way
        self._is_full = False  # more is on its way than should be
        self.is_filled = False
        self._packet_max = 0

    def set_limits(self, peer: int, window: int, packet_max: int) -> None:
        """Set what the peer said when the channel was opened. `packet_max`: at most PACKET_MAX."""
        self.peer, self._window, self._most, self._packet_max = peer, window, window, packet_max

    def widen(self, count: int, delay: float, ahead: int) -> bool:
        """Add to the window. Return False if it would exceed 2^32 - 1, which RFC 4254 forbids.

        `delay`: the round trip of the path, in seconds. `ahead`: bytes that may be on their way if it has none. Less
        than the window is used if the peer adjusts often: a peer that adjusts after each n bytes does so again if a
        little more than n are on their way.
        """
        if self._window + count > WORD_MAX:
            return False
        self._window += count
        self._most = max(self._most, self._window)
        self._least = min(self._least, count)
        unused = max(0, self._most - max(ahead + int(delay * AHEAD_RATE), self._least + self._least // 4))
        if ahead < self._ahead:
            self._is_full = True
        self._ahead = ahead
        if self._is_full:  # half of what is adjusted becomes unused
            self._spare = min(unused, self._spare + count // 2, max(0, self._window - STEP))
            self._is_full = self._spare < unused
        else:  # an adjustment lets as much be sent, also if the peer makes its windows smaller
            self._spare = min(unused, self._window - count)
        return True

    @property
    def is_held_back(self) -> bool:
        """True if the handler has bytes to send, and the window would permit it."""
        return self.wants and not self.sendable and self._window > 0

    def release(self) -> None:
        """Use all of the window, because the peer adjusts it no more.

        It may have taken all, and wait for more before it adjusts: then it has made its window smaller. How large it is
        is not known until the peer has been seen to give so much at once.
        """
        self._spare = self._most = 0

    @property
    def packets(self) -> int:
        """How many packets the client may fill with the next read, if it filled those of the last one."""
        return max(1, (self._window - self._spare) // self._packet_max)

    def put_heads(self, rooms: Sequence[memoryview], most: int, count: int) -> list[int]:
        """Write the heads of data packets, and count their bytes as sent. Return the lengths of the packets.

        `count`: the bytes of data in all. Each packet has `most` of them, and the last one has the rest.
        """
        self.is_filled = count % most == 0
        lengths = [HEAD + most] * (count // most)
        if not self.is_filled:
            lengths.append(HEAD + count % most)
        for room, length in zip(rooms, lengths, strict=False):
            put_head(room, 0, self.peer, length - HEAD)
        self.turn -= count
        self._window -= count
        left = self._window - self._spare
        assert left >= 0
        if left < self.sendable:  # noqa: PLR1730 - min() takes a tenth of the time of this call
            self.sendable = left
        return lengths

    def allow(self) -> None:
        """Let the channel send what the window permits."""
        self.sendable = min(self._window - self._spare, self._packet_max)
