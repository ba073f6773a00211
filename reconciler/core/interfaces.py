"""What the loop and the planner's world are written against: protocols, so that the core needs no IO to be driven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from reconciler.core.actions import Action
from reconciler.core.observed import Failure, Now, Observed
from reconciler.core.spec import Desired, Health, Route


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Now: ...


class Actuator(Protocol):
    """Carries out actions and says what is there.

    `apply` takes effect at once in what `observe` says (a dial is observed as DIALING), and goes on by itself from
    there; it never raises for what the world does, only for a programming error.
    """

    def set_desired(self, desired: Desired) -> None:
        """What is asked for now, for what the actuator looks up by itself: credential files to watch, names."""

    def apply(self, action: Action) -> None: ...

    def observe(self) -> Observed: ...


class Stream(Protocol):
    """A byte stream both ways, for probes. What breaks it is raised as OSError, whatever carries it."""

    async def read(self, limit: int) -> bytes:
        """At least one byte and at most `limit`, or b"" when the far side has ended."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """End it at once, without waiting; may be called after an error."""


# Opens a stream through the tunnel, or says why that failed. Cancelled meanwhile, it leaves no channel behind.
Opener = Callable[[], Awaitable[Stream | Failure]]

# None: well. The caller bounds its time by cancelling it.
Probe = Callable[[Opener, Health, Route], Awaitable[Failure | None]]
