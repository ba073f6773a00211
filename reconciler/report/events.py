"""The last things that happened, for `tunnels events`, the status page and whoever follows.

Owns a bounded ring. In: `tell`, one call for each event. Out: `since` and `more`, which any number of readers use at
their own pace: each reads from the ring, so that a slow one costs nothing and at worst misses what has left it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.core.actions import Action, Cut, Drain
from reconciler.core.observed import Observed
from reconciler.report.changes import Change
from reconciler.report.snapshot import Json, iso

KEPT = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """`subject` is "tunnel prod/pg", "target prod" or "config"; `phase` a Phase or what was done; None: it is gone."""

    at: float
    subject: str
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
            "subject": self.subject,
            "phase": self.phase,
            "before": self.before,
            "reason": self.reason,
            "message": self.message or None,
        }


class Events:
    """See the module. Events are numbered from 1."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._told = 0
        self._more = asyncio.Event()
        self._closed = False

    def tell(self, event: Event) -> None:
        self._ring.append(event)
        self._told += 1
        self._wake()

    def close(self) -> None:
        """Nothing more will happen: readers come to their end."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()

    def since(self, number: int) -> tuple[int, tuple[Event, ...]]:
        """What came after the event of that number, as far as it is kept, and the number of the last of it."""
        missed = self._told - len(self._ring)  # how many have left the ring
        first = max(number - missed, 0) if number <= self._told else 0
        return self._told, tuple(self._ring)[first:]

    async def more(self, number: int) -> bool:
        """Wait until there is something after that number. False: there will not be."""
        while self._told == number and not self._closed:
            await self._more.wait()
        return self._told != number


def of_clients(actions: Iterable[Action], observed: Observed, at: float) -> Iterator[Event]:
    """What the planner does to live clients."""
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
        yield Event(at, f"tunnel {action.flow.tunnel}", phase, message=f"{clients}: {action.why}")
