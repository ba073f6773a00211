"""Signals, heard by the running loop from one moment to another, with no moment between in which one of them kills.

In: what to call for which signal. Out: the calls, in the loop. Afterwards each signal does what it did before, or
nothing at all.

Not asyncio's own: its `remove_signal_handler`, and the closing of its loop, set a signal to its default first, and a
SIGTERM that comes then takes the exit code with it. And a hail of signals can stop its process for good: of a full
wake-up buffer Python's C handler makes a note under a lock that the code which it interrupts may hold (3.11).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

_AT_ONCE = 4096  # bytes read of the wake-up socket, one for each signal

# What `signal.signal` takes and gives.
_Disposition = Callable[[int, Any], Any] | int | signal.Handlers | None


class Signals:
    """See the module. For the main thread."""

    def __init__(self) -> None:
        self._calls: dict[int, Callable[[], None]] = {}
        self._before: dict[int, _Disposition] = {}

    @contextlib.contextmanager
    def heard(self, deaf_after: Callable[[], bool]) -> Iterator[None]:
        """While inside, signals are heard that `on` names. Once outside, these are ignored if `deaf_after()`."""
        loop = asyncio.get_running_loop()
        ours, wakes = socket.socketpair()
        with ours, wakes:
            for end in (ours, wakes):
                end.setblocking(False)
            loop.add_reader(ours, self._heard, loop, ours)
            before = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                deaf = deaf_after()
                for number, disposition in self._before.items():
                    # None is a handler that C code has set: it cannot be set again from here.
                    signal.signal(number, signal.SIG_IGN if deaf or disposition is None else disposition)
                self._before.clear()
                signal.set_wakeup_fd(before)
                loop.remove_reader(ours)

    def on(self, number: signal.Signals, call: Callable[[], None]) -> None:
        """From now on the loop makes this call when the signal comes. In place of an earlier one."""
        self._calls[number] = call
        if number not in self._before:
            # Python wakes the loop only for signals with a handler. It has nothing to do itself.
            self._before[number] = signal.signal(number, lambda *_: None)

    def _heard(self, loop: asyncio.AbstractEventLoop, ours: socket.socket) -> None:
        for number in ours.recv(_AT_ONCE):
            if call := self._calls.get(number):
                loop.call_soon(call)  # one that fails is told by the loop, and the others are made
