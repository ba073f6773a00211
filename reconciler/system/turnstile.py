"""A turnstile for threads that compute: one runs at a time, and the others get their turns in the order they asked.

Several threads that compute at once keep the event loop from its turn for as many switch intervals (5 ms each). One
after another, each to its end, would let a long computation keep the short ones waiting.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turnstile:
    """Lets one thread run. The one that runs calls `pass_on` every few milliseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Run the block in turn with those of other threads."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def pass_on(self) -> None:
        """Let each thread that waits now have its turn first."""
        if self._waiting:
            self._give()
            self._take()

    def _take(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def _give(self) -> None:
        """Hand the turn to the next thread; it stays taken where there is one."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False
