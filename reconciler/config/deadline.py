"""Limits the processor time that loading a file may take.

Reading takes time in proportion to the size of a file, which is limited. This deadline covers the rest: a file that
multiplies itself (long defaults inherited by many tunnels), and bugs. A thread cannot be ended from outside, so the
loops of the loader call `check`. The limit is processor time, because a busy machine or a slow disk must not count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SECONDS = 30.0  # the largest permitted file, with ten thousand tunnels, needs about four

_end: ContextVar[float] = ContextVar("end", default=math.inf)


class TooLongError(Exception):
    """The work took longer than the limit, `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"reading took more than {seconds:g} s of processor time: split the file or shorten its defaults"
        )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit the processor time of the thread in this block. Raises TooLongError at a `check` beyond it."""
    token = _end.set(time.thread_time() + seconds)
    try:
        yield
    except _Over:
        raise TooLongError(seconds) from None
    finally:
        _end.reset(token)


class _Over(Exception):  # noqa: N818 - becomes TooLongError, which knows the limit
    """The time limit of the innermost `within` has passed."""


def check() -> None:
    """Raise if the time limit has passed. Every loop over the content of a file calls this."""
    if time.thread_time() > _end.get():
        raise _Over
