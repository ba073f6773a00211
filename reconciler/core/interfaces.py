"""The protocols between the reconcile loop, its actuator and the probes. They keep the core free of IO."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from reconciler.core.actions import Action
from reconciler.core.observed import Failure, Now, Observed
from reconciler.core.spec import Desired, Health, Route


class Clock(Protocol):
    """The source of the current time."""

    def now(self) -> Now: ...


class Actuator(Protocol):
    """Carries out actions and reports the observed state.

    `apply` starts the action and returns; `observe` shows it at once (a dial is a link in phase DIALING). `apply`
    raises only for programming errors: external failures become part of the observed state.
    """

    def set_desired(self, desired: Desired) -> None:
        """Set the desired state, from which the actuator takes the credential files to watch and the tunnels' names."""

    def apply(self, action: Action) -> None: ...

    def observe(self) -> Observed: ...


class Stream(Protocol):
    """A bidirectional byte stream for probes. Every failure of the transport is raised as OSError."""

    async def read(self, limit: int) -> bytes:
        """Return 1 to `limit` bytes, or b"" at the end of the stream."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Close the stream at once, without waiting. May be called after an error."""


# Opens a stream through the tunnel, or returns the failure. If it is cancelled, no channel stays open.
Opener = Callable[[], Awaitable[Stream | Failure]]

# Returns None on success. The caller limits the time by cancelling it.
Probe = Callable[[Opener, Health, Route], Awaitable[Failure | None]]
