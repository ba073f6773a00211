"""How much processor time the files may cost, and an end to the work on one that costs more.

Everything that reads a file takes time in proportion to its size, which is bounded. This bounds what is left: a file
that multiplies itself (long defaults inherited by many tunnels), and mistakes of ours. A thread cannot be ended from
outside, so the loops of the loader call `check`. Processor time, not the clock's: a busy machine or a slow disk is not
the file's fault.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SECONDS = 30.0  # the largest file that is taken, with ten thousand tunnels, needs about four

_end: ContextVar[float] = ContextVar("end", default=math.inf)


class TooLongError(Exception):
    """The work took longer than it may. `seconds` is the limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"took more than {seconds:g} s of processor time to read: split it, or shorten its defaults")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The work in this block may take this much processor time of its thread, and then ends with TooLongError."""
    token = _end.set(time.thread_time() + seconds)
    try:
        yield
    except _Over:
        raise TooLongError(seconds) from None
    finally:
        _end.reset(token)


class _Over(Exception):  # noqa: N818 - becomes TooLongError, which knows the limit
    """The time of the innermost `within` is over."""


def check() -> None:
    """Called from every loop over what a file holds. Raises where the time is over."""
    if time.thread_time() > _end.get():
        raise _Over
