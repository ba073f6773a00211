"""The events of a block: frozen values, kept in a ring, read by any number of iterators.

A reader that is slow, or that starts reading late, gets an `EventsLost` in place of the events that left the ring.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Self, TypeAlias

from reconciler.config.problem import Problem
from reconciler.core.observed import Now, Observed, Phase, Reason
from reconciler.core.plan import Plan
from reconciler.core.status import Status
from reconciler.core.text.forms import and_more, phase_text
from reconciler.report.changes import Change, ChangeTracker
from reconciler.report.events import Event, Events, client_events
from reconciler.system.redaction import redact


class NoticeKind(StrEnum):
    """What was done to a target, to a tunnel, or to its clients."""

    RESTARTED = "restarted"
    PAUSED = "paused"
    RESUMED = "resumed"
    DRAINING = "draining"  # its clients may finish until a deadline
    REVIVED = "revived"  # its clients may stay after all
    CUT = "cut"  # its clients were disconnected


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """A target or tunnel has another phase, reason or address, or was removed."""

    at: float
    """The time of the event (Unix time)."""
    id: str
    """`target/name` of a tunnel, or the name of a target."""
    phase: Phase | None
    """The phase now, None if it was removed."""
    before: Phase | None
    """The phase before, None if it is new."""
    reason: Reason | None
    """Why it is not up, or why its connection cannot be replaced; None if nothing fails."""
    message: str
    """What happened and what to do about it, or its address."""

    def __str__(self) -> str:
        return f"{self.id}: {phase_text(self.phase, self.reason, self.message) if self.phase else 'removed'}"

    @classmethod
    def of(cls, change: Change) -> Self:
        """Return the event for a change of the status."""
        verdict = change.verdict
        return cls(
            at=change.at,
            id=change.subject.name,
            phase=verdict.phase if verdict is not None else None,
            before=change.before,
            reason=verdict.reason if verdict is not None else None,
            message=redact((verdict.message or change.detail) if verdict is not None else ""),
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """Something was done to a target, to a tunnel, or to its clients."""

    at: float
    """The time of the event (Unix time)."""
    id: str
    """`target/name` of a tunnel, or the name of a target."""
    kind: NoticeKind
    """What was done."""
    message: str
    """Why, and to how many clients."""

    def __str__(self) -> str:
        return f"{self.id}: {phase_text(self.kind, None, self.message)}"


@dataclass(frozen=True, slots=True)
class ConfigLoaded:
    """`apply` was called with a configuration that could be read."""

    at: float
    """The time of the event (Unix time)."""
    revision: str
    """Its revision, "" if it was rejected."""
    rejected: tuple[Problem, ...]
    """Its errors. If there are any, nothing was changed."""

    def __str__(self) -> str:
        errors = and_more([str(one) for one in self.rejected], 3, "; ")
        return f"configuration: rejected: {errors}" if errors else f"configuration: {self.revision}"


@dataclass(frozen=True, slots=True)
class EventsLost:
    """Events were lost, because the reader was slow: at most 1000 are kept."""

    count: int
    """How many."""

    def __str__(self) -> str:
        return f"events: {self.count} lost"


TunnelEvent: TypeAlias = PhaseChanged | Notice | ConfigLoaded | EventsLost
"""Any event of `Tunnels.events`."""


class EventLog:
    """The events of one block. Input: the result of each pass of the loop, and events of the engine."""

    def __init__(self) -> None:
        self.ring = Events[PhaseChanged | Notice | ConfigLoaded]()
        self._tracker = ChangeTracker()

    def passed(self, status: Status, planned_from: Observed, plan: Plan, now: Now) -> None:
        """Add the events of a pass."""
        for change in self._tracker.update(status, now.wall):
            self.ring.add(PhaseChanged.of(change))
        for event in client_events(plan.actions, planned_from, now.wall):
            self.add(event)

    def add(self, event: Event) -> None:
        """Add an event that is not a change of the status."""
        kind = NoticeKind(event.phase or "")
        self.ring.add(Notice(event.at, event.subject.name, kind, redact(event.message)))

    def loaded(self, revision: str, rejected: tuple[Problem, ...]) -> None:
        """Add the event for a configuration that was read."""
        self.ring.add(ConfigLoaded(time.time(), revision, rejected))


class EventStream:
    """An asynchronous iterator over the events of a block, from the call of `Tunnels.events` on.

    It ends when its time is over, or when the block ends and all events are read.
    """

    def __init__(self, log: EventLog, within: float | None) -> None:
        self._ring = log.ring
        self._number, _ = self._ring.since(0)  # of the last event that was read
        self._deadline = None if within is None else asyncio.get_running_loop().time() + within
        self._unread: deque[TunnelEvent] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TunnelEvent:
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self) -> TunnelEvent | None:
        """Wait for the next event and return it. Return None at the end."""
        while not self._unread:
            try:
                async with asyncio.timeout_at(self._deadline):
                    if not await self._ring.more(self._number):
                        return None
            except TimeoutError:
                return None
            last, new = self._ring.since(self._number)
            if lost := last - self._number - len(new):
                self._unread.append(EventsLost(lost))
            self._unread.extend(new)
            self._number = last
        return self._unread.popleft()
