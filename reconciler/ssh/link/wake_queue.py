"""Wakes the clients and probes that wait for a link of their target, in order and a few at a time.

Input: calls of `wait`, and the targets that have a usable link. Owns the waiters that were woken and have not run yet;
those that still wait are in the record of their target.
"""

from __future__ import annotations

import asyncio
from collections import deque

from reconciler.ssh.records import TargetRecord

WOKEN_AT_ONCE = 4  # held clients that continue in one iteration of the loop


class WakeQueue:
    """The waiters that may continue."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken: deque[asyncio.Future[None]] = deque()

    async def wait(self, target: TargetRecord) -> None:
        """Return when a link of this target may have become usable."""
        future = self._loop.create_future()
        target.waiting[future] = None
        try:
            await future
        finally:
            target.waiting.pop(future, None)

    def wake(self, target: TargetRecord) -> None:
        """Let everything that waits for this target continue in its order, a few in each iteration of the loop.

        Each client opens a channel: 2,000 of them in one iteration stopped the loop for 0.3 s.
        """
        is_under_way = bool(self._woken)
        self._woken.extend(target.waiting)
        target.waiting.clear()
        if not is_under_way:
            self._wake_some()

    def _wake_some(self) -> None:
        remaining = WOKEN_AT_ONCE
        while self._woken and remaining:
            future = self._woken.popleft()
            if not future.done():
                future.set_result(None)
                remaining -= 1
        if self._woken:
            self._loop.call_soon(self._wake_some)
