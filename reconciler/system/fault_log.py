"""Logs internal errors: a new one with its traceback, later a count at its 2nd, 4th, 8th, ... occurrence.

An error may recur in each pass of the loop. A traceback each time would fill the disk.
"""

from __future__ import annotations

import logging

from reconciler.core.subject import Subject

log = logging.getLogger(__name__)

_MOST = 256  # distinct errors that are counted

_Distinct = tuple[str, type[BaseException], str, int]


class FaultLog:
    """Logs internal errors and counts how often each occurred."""

    def __init__(self) -> None:
        self._counts: dict[_Distinct, int] = {}

    def tell(self, what: str, error: BaseException, *, subject: Subject | None = None) -> None:
        """Log an internal error. `what` says what failed, `subject` is the target or tunnel concerned."""
        name = subject.name if subject is not None else ""
        distinct = (f"{name}: {what}", type(error), *_origin(error))
        count = self._counts.pop(distinct, 0) + 1
        self._counts[distinct] = count  # at the end: the oldest error is dropped first
        if len(self._counts) > _MOST:
            del self._counts[next(iter(self._counts))]
        about = f"{name}: " if name else ""
        fields = {"target": subject.target, "tunnel": subject.tunnel} if subject is not None else {}
        if count == 1:
            text = "%sinternal error: %s; please report it"
            log.error(text, about, what, exc_info=error, extra={**fields, "reason": "internal"})
        elif count & (count - 1) == 0:  # 2, 4, 8, ...
            text = "%sinternal error, %d times so far: %s (%r); please report it"
            log.error(text, about, count, what, error, extra={**fields, "reason": "internal"})


def _origin(error: BaseException) -> tuple[str, int]:
    """Return the innermost line of the traceback, which distinguishes errors of one type."""
    trace = error.__traceback__
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno
