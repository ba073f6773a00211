"""Log lines: one for each change, and for what keeps failing a reminder at growing intervals.

Owns when each subject was last spoken of. In: the changes of a pass and the judgement they come from. Out: log lines
with the fields target, tunnel, reason and labels. A thing that fails ever again, for the same reason or by turns for
several, is told once, then after 10 s, 20 s, ... 10 min, each time with its count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.core.observed import Phase
from reconciler.core.status import Status, Verdict
from reconciler.report.changes import Change
from reconciler.system.redaction import redact

log = logging.getLogger(__name__)

FIRST, LONGEST = 10.0, 600.0  # seconds

_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Spoken:
    at: float
    pause: float
    failures: int


class ChangeLogger:
    """See the module."""

    def __init__(self) -> None:
        self._spoken: dict[str, _Spoken] = {}

    def tell(self, changes: Iterable[Change], judgement: Status, now: float) -> None:
        """`now` is monotonic."""
        changes = tuple(changes)
        labels = _labels(judgement) if changes else {}
        for change in changes:
            before = self._spoken.get(change.subject)
            if not change.is_trouble:
                self._spoken.pop(change.subject, None)
            elif before is None or _came_or_went(change) or _needs_action(change.verdict):
                self._spoken[change.subject] = _Spoken(now, FIRST, _failures(change.verdict))
            else:
                continue  # it fails in another way, which needs no person either: its reminders tell
            # What is only just asked for says nothing yet: of a thousand tunnels, nobody wants a thousand such lines.
            level = logging.DEBUG if change.before is None and _is_pending(change.verdict) else None
            _log(change.subject, change.verdict, change.sentence(), labels.get(change.subject), level)
        for subject, verdict, marks in _own_troubles(judgement):
            self._remind(subject, verdict, marks, now)

    def _remind(self, subject: str, verdict: Verdict, labels: _Labels | None, now: float) -> None:
        spoken = self._spoken.get(subject)
        if spoken is None or verdict.failures <= spoken.failures or now < spoken.at + spoken.pause:
            return
        self._spoken[subject] = _Spoken(now, min(2 * spoken.pause, LONGEST), verdict.failures)
        reason = f" ({verdict.reason})" if verdict.reason is not None else ""
        count = f"{_ordinal(verdict.failures)} failure in a row"
        _log(subject, verdict, f"{subject} is still {verdict.phase}{reason}: {verdict.message} ({count})", labels)


def _labels(judgement: Status) -> dict[str, _Labels]:
    """Of the tunnels that have any."""
    tunnels = (*judgement.tunnels, *judgement.leaving)
    return {f"tunnel {one.id}": one.spec.policy.labels for one in tunnels if one.spec.policy.labels}


def _own_troubles(judgement: Status) -> Iterable[tuple[str, Verdict, _Labels | None]]:
    """Targets in trouble, and tunnels with troubles that are not their target's, with their labels."""
    of_target = {}
    for target in judgement.targets:
        of_target[target.name] = target.verdict
        if target.verdict.is_trouble:
            yield f"target {target.name}", target.verdict, None
    for tunnel in judgement.tunnels:
        if tunnel.verdict.is_trouble and tunnel.verdict is not of_target.get(tunnel.spec.target):
            yield f"tunnel {tunnel.id}", tunnel.verdict, tunnel.spec.policy.labels


def _came_or_went(change: Change) -> bool:
    """Whether it was up and is not any more, or the other way round."""
    return (change.before is Phase.UP) is not (change.verdict is not None and change.verdict.phase is Phase.UP)


def _needs_action(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.needs_action


def _is_pending(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.phase is Phase.PENDING


def _log(
    subject: str, verdict: Verdict | None, text: str, labels: _Labels | None = None, level: int | None = None
) -> None:
    kind, _, name = subject.partition(" ")
    trouble = verdict is not None and verdict.is_trouble
    fields = {
        "target": name.partition("/")[0],
        "tunnel": name if kind == "tunnel" else None,
        "reason": verdict.reason.value if verdict is not None and verdict.reason is not None else None,
        "labels": dict(labels) if labels else None,
    }
    log.log(level or (logging.WARNING if trouble else logging.INFO), "%s", redact(text), extra=fields)


def _failures(verdict: Verdict | None) -> int:
    return verdict.failures if verdict is not None else 0


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
