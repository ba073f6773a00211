"""Keeps the latest events, for `tunnels events`, the status page and subscribers.

Owns a ring buffer. Input: one call of `add` for each event. Output: `since` and `more`, for any number of readers.
Each reader keeps its own position, so that a slow one costs nothing and at worst misses events that left the ring.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from reconciler.core.actions import Action, Cut, Drain
from reconciler.core.observed import Observed
from reconciler.core.subject import Subject
from reconciler.report.changes import Change
from reconciler.report.snapshot import Json, iso

E = TypeVar("E")

KEPT = 1000  # events


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `phase`: the new phase, or a word for what was done ("paused", "cut"); None for a removed subject."""

    at: float
    subject: Subject
    phase: str | None
    before: str | None = None
    reason: str | None = None
    message: str = ""

    @classmethod
    def of(cls, change: Change) -> Event:
        verdict = change.verdict
        return cls(
            at=change.at,
            subject=change.subject,
            phase=verdict.phase.value if verdict is not None else None,
            before=change.before.value if change.before is not None else None,
            reason=verdict.reason.value if verdict is not None and verdict.reason is not None else None,
            message=(verdict.message or change.detail) if verdict is not None else "",
        )

    def to_json(self) -> Json:
        return {
            "at": iso(self.at),
            "subject": str(self.subject),
            "phase": self.phase,
            "before": self.before,
            "reason": self.reason,
            "message": self.message or None,
        }


class Events(Generic[E]):
    """The ring buffer of events. Events are numbered from 1."""

    def __init__(self) -> None:
        self._ring: deque[E] = deque(maxlen=KEPT)
        self._count = 0
        self._added = asyncio.Event()
        self._closed = False

    def add(self, event: E) -> None:
        self._ring.append(event)
        self._count += 1
        self._wake()

    def close(self) -> None:
        """End the streams of all readers: no more events will be added."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        added, self._added = self._added, asyncio.Event()
        added.set()

    def since(self, number: int) -> tuple[int, tuple[E, ...]]:
        """Return the number of the last event, and the events after `number` that are still kept."""
        dropped = self._count - len(self._ring)
        first = max(number - dropped, 0) if number <= self._count else 0
        return self._count, tuple(self._ring)[first:]

    async def more(self, number: int) -> bool:
        """Wait until there is an event after `number`. Return False if there will be none."""
        while self._count == number and not self._closed:
            await self._added.wait()
        return self._count != number


def client_events(actions: Iterable[Action], observed: Observed, at: float) -> Iterator[Event]:
    """Yield an event for each action that affects live clients."""
    counts = {flow.key: flow.count for flow in observed.flows}
    for action in actions:
        match action:
            case Drain(draining=None):
                phase = "revived"
            case Drain():
                phase = "draining"
            case Cut():
                phase = "cut"
            case _:
                continue
        count = counts.get(action.flow, 0)
        clients = "1 client" if count == 1 else f"{count} clients"
        yield Event(at, Subject("tunnel", action.flow.tunnel), phase, message=f"{clients}: {action.why}")
