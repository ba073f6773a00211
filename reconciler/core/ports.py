"""What the loop and the planner's world are written against: protocols, so that the core needs no IO to be driven."""

from __future__ import annotations

from typing import Protocol

from reconciler.core.actions import Action
from reconciler.core.spec import Desired
from reconciler.core.status import Now, Observed


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Now: ...


class Actuator(Protocol):
    """Carries out actions and says what is there.

    `apply` takes effect at once in what `observe` says (a dial is observed as DIALING), and goes on by itself from
    there; it never raises for what the world does, only for a programming error.
    """

    def want(self, desired: Desired) -> None:
        """What is asked for now, for what the actuator looks up by itself: credential files to watch, names."""

    def apply(self, action: Action) -> None: ...

    def observe(self) -> Observed: ...
