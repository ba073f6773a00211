"""Writes the changes to the log, and reminders at growing intervals for what keeps failing.

Owns when each target and tunnel was last logged. Input: the changes of a pass and the status they come from. Output:
log lines with the fields target, tunnel or tunnels, reason and labels. A target or tunnel that keeps failing, for one
reason or for several in turn, is logged once, then after 10 s, 20 s, ... 10 min, each time with the number of failures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.observed import Phase
from reconciler.core.status import Status, TunnelStatus, Verdict
from reconciler.core.subject import Subject
from reconciler.core.text.forms import phase_text
from reconciler.report.change_lines import ChangeLine, change_lines
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
        if new := [change for change in changes if self._is_new(change, now)]:
            tunnels = {one.id: one for one in (*status.tunnels, *status.leaving)}
            for line in change_lines(new):
                _log_line(line, tunnels)
        for subject, verdict, own_labels in _own_troubles(status):
            self._remind(subject, verdict, own_labels, now)

    def _is_new(self, change: Change, now: float) -> bool:
        """Return False if it was failing before, and the new reason needs no action: reminders report it."""
        before = self._last_lines.get(change.subject)
        if not change.is_trouble:
            self._last_lines.pop(change.subject, None)
        elif before is None or _is_transition_of_up(change) or _needs_action(change.verdict):
            self._last_lines[change.subject] = _LastLine(now, REMINDER_MIN, _failures(change.verdict))
        else:
            return False
        return True

    def _remind(self, subject: Subject, verdict: Verdict, labels: _Labels | None, now: float) -> None:
        last = self._last_lines.get(subject)
        if last is None or verdict.failures <= last.failures or now < last.at + last.interval:
            return
        self._last_lines[subject] = _LastLine(now, min(2 * last.interval, REMINDER_MAX), verdict.failures)
        text = phase_text(verdict.phase, verdict.reason, verdict.message)
        count = f"{_ordinal(verdict.failures)} failure in a row"
        _log(subject, verdict, f"{subject} is still {text} ({count})", labels)


def _log_line(line: ChangeLine, tunnels: Mapping[str, TunnelStatus]) -> None:
    change = line.change
    ids = tuple(one.subject.name for one in line.tunnels)
    is_of_one = ids == (change.subject.name,)
    # A new target or tunnel that is pending is logged at debug level: there may be thousands.
    level = logging.DEBUG if change.before is None and _is_pending(change.verdict) else None
    labels = _common_labels([tunnels[one] for one in ids if one in tunnels])
    subject = change.subject if is_of_one or not ids else Subject("target", change.subject.target)
    _log(subject, change.verdict, line.text(tunnels), labels, level, tunnels=() if is_of_one else ids)


def _common_labels(tunnels: Sequence[TunnelStatus]) -> _Labels:
    """Return the labels that all these tunnels have."""
    first, *others = [one.spec.policy.labels for one in tunnels] or [()]
    return tuple(label for label in first if all(label in labels for labels in others))


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
    subject: Subject,
    verdict: Verdict | None,
    text: str,
    labels: _Labels | None = None,
    level: int | None = None,
    tunnels: Sequence[str] = (),
) -> None:
    is_trouble = verdict is not None and verdict.is_trouble
    fields = {
        "target": subject.target,
        "tunnel": subject.tunnel,
        "tunnels": list(tunnels) or None,
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
