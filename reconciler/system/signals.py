"""Calls functions in the event loop when signals arrive, for the time of a `with` block.

Afterwards each signal has its earlier handler again or is ignored. At no moment is a signal at its default action.

asyncio's own signal handlers do not guarantee that. `remove_signal_handler` and `loop.close()` first reset the signal
to its default, and a SIGTERM at that moment kills the process, so its exit code is lost. Also, a burst of signals can
deadlock the process (Python 3.11): when the wake-up buffer is full, the C handler takes a lock to schedule a warning,
and the interrupted code may hold that lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

_READ_SIZE = 4096  # bytes for each read from the wake-up socket; one byte is one signal

# The type of a handler for `signal.signal`.
_Handler = Callable[[int, Any], Any] | int | signal.Handlers | None


class Signals:
    """The signal handlers of this process, called in the event loop. For the main thread only."""

    def __init__(self) -> None:
        self._calls: dict[int, Callable[[], None]] = {}
        self._before: dict[int, _Handler] = {}

    @contextlib.contextmanager
    def handled(self, ignore_after: Callable[[], bool]) -> Iterator[None]:
        """Handle the signals given to `on` inside the block. After it, ignore them if `ignore_after()` is true."""
        loop = asyncio.get_running_loop()
        reader, writer = socket.socketpair()
        with reader, writer:
            for end in (reader, writer):
                end.setblocking(False)
            loop.add_reader(reader, self._received, loop, reader)
            previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                ignore = ignore_after()
                for number, handler in self._before.items():
                    # None is a handler set by C code, which Python cannot restore.
                    signal.signal(number, signal.SIG_IGN if ignore or handler is None else handler)
                self._before.clear()
                signal.set_wakeup_fd(previous_fd)
                loop.remove_reader(reader)

    def on(self, number: signal.Signals, call: Callable[[], None]) -> None:
        """Call this function in the loop when the signal arrives. Replaces an earlier function."""
        self._calls[number] = call
        if number not in self._before:
            # Python wakes the loop only for signals with a handler. The handler itself does nothing.
            self._before[number] = signal.signal(number, lambda *_: None)

    def _received(self, loop: asyncio.AbstractEventLoop, reader: socket.socket) -> None:
        for number in reader.recv(_READ_SIZE):
            if call := self._calls.get(number):
                loop.call_soon(call)  # so that the loop reports an exception and makes the other calls
