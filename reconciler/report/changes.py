"""Finds what changed between two passes: one `Change` for each target or tunnel with another phase or reason.

Owns what a status does not contain: since when each target and tunnel has its phase, and how often it reconnected.
Input: the status after each pass. Output: the changes since the previous one.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Status, TargetStatus, TunnelStatus, Verdict
from reconciler.core.subject import Subject
from reconciler.core.text.forms import phase_text


@dataclass(frozen=True, slots=True)
class Change:
    """The target or tunnel `subject` has `verdict` now; `detail` is its address. `at` is Unix time."""

    subject: Subject
    before: Phase | None
    verdict: Verdict | None  # None: it was removed
    detail: str
    at: float

    def sentence(self) -> str:
        """Return the change as one line of text."""
        if self.verdict is None:
            return f"{self.subject} is gone"
        phase, message = self.verdict.phase, self.verdict.message
        detail = self.detail if phase is Phase.UP and self.detail not in message else ""
        return f"{self.subject} is {phase_text(phase, self.verdict.reason, detail, message)}"

    @property
    def is_trouble(self) -> bool:
        return self.verdict is not None and self.verdict.is_trouble


@dataclass(slots=True)
class _Memory:
    phase: Phase
    reason: Reason | None
    detail: str
    since: float
    was_up: bool = False
    reconnects: int = 0


class ChangeTracker:
    """The phase, reason and detail of each target and tunnel at the last pass."""

    def __init__(self) -> None:
        self._memories: dict[Subject, _Memory] = {}

    def update(self, status: Status, wall: float) -> list[Change]:
        """Return the changes since the last status, targets first."""
        seen = {Subject("target", target.name): target for target in status.targets} | {
            Subject("tunnel", tunnel.id): tunnel for tunnel in (*status.tunnels, *status.leaving)
        }
        changes = []
        for subject, one in seen.items():
            verdict, memory = one.verdict, self._memories.get(subject)
            if memory is None:
                detail = _detail(one)
                memory = self._memories[subject] = _Memory(verdict.phase, verdict.reason, detail, wall)
                changes.append(Change(subject, None, verdict, detail, wall))
            elif (memory.phase, memory.reason) != (verdict.phase, verdict.reason) or (
                verdict.phase is Phase.UP and memory.detail != _detail(one)
            ):
                detail = _detail(one)
                changes.append(Change(subject, memory.phase, verdict, detail, wall))
                if memory.phase is not verdict.phase:
                    memory.since = wall
                    memory.reconnects += verdict.phase is Phase.UP and memory.was_up
                memory.phase, memory.reason, memory.detail = verdict.phase, verdict.reason, detail
            memory.was_up |= verdict.phase is Phase.UP
        gone = [subject for subject in self._memories if subject not in seen]
        changes.extend(Change(subject, self._memories.pop(subject).phase, None, "", wall) for subject in gone)
        return changes

    def since(self, subject: Subject) -> float:
        """Return since when (Unix time) the subject has its phase."""
        return self._memories[subject].since

    def reconnects(self, subject: Subject) -> int:
        """Return how often the subject came up again after having been up."""
        return self._memories[subject].reconnects


def _detail(status: TargetStatus | TunnelStatus) -> str:
    """Return the address: the host of a target, listener and destination of a tunnel."""
    match status:
        case TargetStatus():
            return status.host
        case TunnelStatus():
            return f"{status.bound} -> {status.spec.route}"
