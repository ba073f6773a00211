"""A fair lock for threads that compute: one runs at a time, the others wait in first-in, first-out order.

Each computing thread can delay the event loop by one switch interval (5 ms). So only one runs at a time, and a long
computation yields regularly so that short ones do not wait for its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turnstile:
    """Lets one thread run at a time. The running thread calls `pass_on` every few milliseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Run the block while no other thread runs its own."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def pass_on(self) -> None:
        """Let every thread that waits now run first."""
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
        """Wake the next waiting thread, if any; the lock then stays taken."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False
