"""Writes a log line for each change, and reminders at growing intervals for what keeps failing.

Owns when each target and tunnel was last logged. Input: the changes of a pass and the status they come from. Output:
log lines with the fields target, tunnel, reason and labels. A target or tunnel that keeps failing, for one reason or
for several in turn, is logged once, then after 10 s, 20 s, ... 10 min, each time with the number of failures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.core.observed import Phase
from reconciler.core.status import Status, Verdict
from reconciler.core.subject import Subject
from reconciler.core.text.forms import phase_text
from reconciler.report.changes import Change
from reconciler.system.redaction import redact

log = logging.getLogger(__name__)

REMINDER_MIN, REMINDER_MAX = 10.0, 600.0  # seconds between two lines: doubled each time

_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _LastLine:
    at: float
    interval: float  # seconds until the next reminder
    failures: int


class ChangeLogger:
    """Logs changes and reminders; remembers the last line of each failing target and tunnel."""

    def __init__(self) -> None:
        self._last_lines: dict[Subject, _LastLine] = {}

    def log_changes(self, changes: Iterable[Change], status: Status, now: float) -> None:
        """Log the changes of a pass and the reminders that are due. `now` is monotonic."""
        changes = tuple(changes)
        labels = _labels(status) if changes else {}
        for change in changes:
            before = self._last_lines.get(change.subject)
            if not change.is_trouble:
                self._last_lines.pop(change.subject, None)
            elif before is None or _is_transition_of_up(change) or _needs_action(change.verdict):
                self._last_lines[change.subject] = _LastLine(now, REMINDER_MIN, _failures(change.verdict))
            else:
                continue  # it was failing before, and the new reason needs no action: reminders report it
            # A new target or tunnel that is pending is logged at debug level: there may be thousands.
            level = logging.DEBUG if change.before is None and _is_pending(change.verdict) else None
            _log(change.subject, change.verdict, change.sentence(), labels.get(change.subject), level)
        for subject, verdict, own_labels in _own_troubles(status):
            self._remind(subject, verdict, own_labels, now)

    def _remind(self, subject: Subject, verdict: Verdict, labels: _Labels | None, now: float) -> None:
        last = self._last_lines.get(subject)
        if last is None or verdict.failures <= last.failures or now < last.at + last.interval:
            return
        self._last_lines[subject] = _LastLine(now, min(2 * last.interval, REMINDER_MAX), verdict.failures)
        text = phase_text(verdict.phase, verdict.reason, verdict.message)
        count = f"{_ordinal(verdict.failures)} failure in a row"
        _log(subject, verdict, f"{subject} is still {text} ({count})", labels)


def _labels(status: Status) -> dict[Subject, _Labels]:
    """Return the labels of the tunnels that have any."""
    tunnels = (*status.tunnels, *status.leaving)
    return {Subject("tunnel", one.id): one.spec.policy.labels for one in tunnels if one.spec.policy.labels}


def _own_troubles(status: Status) -> Iterable[tuple[Subject, Verdict, _Labels | None]]:
    """Yield failing targets, and tunnels that fail for a reason of their own, with their labels."""
    of_target = {}
    for target in status.targets:
        of_target[target.name] = target.verdict
        if target.verdict.is_trouble:
            yield Subject("target", target.name), target.verdict, None
    for tunnel in status.tunnels:
        if tunnel.verdict.is_trouble and tunnel.verdict is not of_target.get(tunnel.spec.target):
            yield Subject("tunnel", tunnel.id), tunnel.verdict, tunnel.spec.policy.labels


def _is_transition_of_up(change: Change) -> bool:
    """Return True if the target or tunnel came up or went down."""
    return (change.before is Phase.UP) is not (change.verdict is not None and change.verdict.phase is Phase.UP)


def _needs_action(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.needs_action


def _is_pending(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.phase is Phase.PENDING


def _log(
    subject: Subject, verdict: Verdict | None, text: str, labels: _Labels | None = None, level: int | None = None
) -> None:
    is_trouble = verdict is not None and verdict.is_trouble
    fields = {
        "target": subject.target,
        "tunnel": subject.tunnel,
        "reason": verdict.reason.value if verdict is not None and verdict.reason is not None else None,
        "labels": dict(labels) if labels else None,
    }
    log.log(level or (logging.WARNING if is_trouble else logging.INFO), "%s", redact(text), extra=fields)


def _failures(verdict: Verdict | None) -> int:
    return verdict.failures if verdict is not None else 0


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
