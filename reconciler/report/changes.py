"""What changed, when and why: one entry whenever a target or tunnel becomes something else.

Owns the memory that a judgement lacks: since when each thing is what it is, and how often it came back. In: a
judgement after each pass. Out: the changes since the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Status, TargetStatus, TunnelStatus, Verdict


@dataclass(frozen=True, slots=True)
class Change:
    """`subject` ("target prod" or "tunnel prod/pg") is `verdict` now; `detail` is where it leads. `at` is Unix time."""

    subject: str
    before: Phase | None
    verdict: Verdict | None  # None: it is asked for no more
    detail: str
    at: float

    def sentence(self) -> str:
        """For people, one line."""
        if self.verdict is None:
            return f"{self.subject} is gone"
        text = f"{self.subject} is {self.verdict.phase}"
        if self.verdict.reason is not None:
            text += f" ({self.verdict.reason})"
        if self.verdict.phase is Phase.UP and self.detail not in self.verdict.message:
            text += f": {self.detail}"
        if self.verdict.message:
            text += f": {self.verdict.message}"
        return text

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
    """See the module."""

    def __init__(self) -> None:
        self._memories: dict[str, _Memory] = {}

    def note(self, judgement: Status, wall: float) -> list[Change]:
        """The changes since the last judgement, targets first."""
        seen = {f"target {target.name}": target for target in judgement.targets} | {
            f"tunnel {tunnel.id}": tunnel for tunnel in (*judgement.tunnels, *judgement.leaving)
        }
        changes = []
        for subject, status in seen.items():
            verdict, memory = status.verdict, self._memories.get(subject)
            if memory is None:
                detail = _detail(status)
                memory = self._memories[subject] = _Memory(verdict.phase, verdict.reason, detail, wall)
                changes.append(Change(subject, None, verdict, detail, wall))
            elif (memory.phase, memory.reason) != (verdict.phase, verdict.reason) or (
                verdict.phase is Phase.UP and memory.detail != _detail(status)
            ):
                detail = _detail(status)
                changes.append(Change(subject, memory.phase, verdict, detail, wall))
                if memory.phase is not verdict.phase:
                    memory.since = wall
                    memory.reconnects += verdict.phase is Phase.UP and memory.was_up
                memory.phase, memory.reason, memory.detail = verdict.phase, verdict.reason, detail
            memory.was_up |= verdict.phase is Phase.UP
        gone = [subject for subject in self._memories if subject not in seen]
        changes.extend(Change(subject, self._memories.pop(subject).phase, None, "", wall) for subject in gone)
        return changes

    def since(self, subject: str) -> float:
        """Since when (Unix time) the subject has its phase."""
        return self._memories[subject].since

    def reconnects(self, subject: str) -> int:
        """How often it came back up after having been up."""
        return self._memories[subject].reconnects


def _detail(status: TargetStatus | TunnelStatus) -> str:
    """Where it leads."""
    match status:
        case TargetStatus():
            return status.host
        case TunnelStatus():
            return f"{status.bound} -> {status.spec.route}"
