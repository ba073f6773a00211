"""The plan under construction, passed through the parts of the planner."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from reconciler.core.actions import Action
from reconciler.core.observed import Now

WALL_CHECK_EVERY = 60.0  # seconds; the wall clock can jump, so wall-clock times are checked at least this often


@dataclass(slots=True)
class Draft:
    """The actions so far, by the group in which they are carried out, and the next time to plan again."""

    now: Now
    stop: list[Action] = field(default_factory=list)
    change: list[Action] = field(default_factory=list)
    start: list[Action] = field(default_factory=list)
    wake_at: float = math.inf

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)

    def due(self, at: float) -> bool:
        """Return True if that time has come. If not, plan again at that time."""
        if at <= self.now.mono:
            return True
        self.wake(at)
        return False
