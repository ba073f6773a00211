"""The numbers of the channels of one link: which are free, and which packets are for channels that have ended."""

from __future__ import annotations

from collections import deque
from typing import Final

RESTING: Final = 64  # free numbers that are not used again yet, so that late packets do not meet a new channel
# Late packets that are ignored: some in all, and some for each number that was freed. Beyond, they are a flood.
LATE_MAX: Final = 1024
LATE_FOR_EACH: Final = 16


class NumberError(Exception):
    """Raised for a packet with a number that the peer cannot have. The text says why."""


class Numbers:
    """Numbers from `first` on."""

    __slots__ = ("_first", "_free", "_freed", "_late", "_next")

    def __init__(self, first: int) -> None:
        self._first = first
        self._next = first  # numbers from here on were never used
        self._free: deque[int] = deque()
        self._freed = 0
        self._late = 0

    def take(self) -> int:
        """Return a free number: one that rested, or one that was never used."""
        if len(self._free) > RESTING:
            return self._free.popleft()
        self._next += 1
        return self._next - 1

    def free(self, number: int) -> None:
        """Free the number of a channel that both sides closed."""
        self._free.append(number)
        self._freed += 1

    def count_late(self, number: int) -> None:
        """Count a packet for a number that no channel has. Raises NumberError if it cannot be merely late."""
        if not self._first <= number < self._next:
            raise NumberError(f"for channel {number}, which was never opened")
        self._late += 1
        if self._late > LATE_MAX + LATE_FOR_EACH * self._freed:
            raise NumberError(f"for channel {number}, one of {self._late} for channels that are closed")
