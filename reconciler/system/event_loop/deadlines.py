"""Calls a function for each item that is not removed within a fixed time, with one timer of the event loop for all.

A timer for each item costs more than the rest of its handling, if nearly all items are removed in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """The items that wait, oldest first.

    The timer stays set when the last item is removed, and holds this object until then.
    """

    def __init__(self, seconds: float, over: Callable[[K], object]) -> None:
        """`over`: called `seconds` after an item was added, by the loop. The item is removed before."""
        self._seconds = seconds
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._ends: dict[K, float] = {}  # in loop time; in this order, because all wait for the same time
        self._is_set = False

    def add(self, item: K, now: float) -> None:
        """Add an item that is not in it. `now`: loop time."""
        self._ends[item] = end = now + self._seconds
        if not self._is_set:
            self._is_set = True
            self._loop.call_at(end, self._check)

    def remove(self, item: K) -> None:
        """Do nothing if it is not in it."""
        self._ends.pop(item, None)

    def _check(self) -> None:
        self._is_set = False
        now = self._loop.time()
        while self._ends:
            item, end = next(iter(self._ends.items()))
            if end > now:
                self._is_set = True
                self._loop.call_at(end, self._check)
                return
            del self._ends[item]
            self._loop.call_soon(self._over, item)
