"""Actions that raised an exception, which only a bug in this program causes. Pure.

The loop continues with the other actions. The planner is level-triggered and asks for the same action again in its next
pass; this module holds it back until its next try is due. The record ends when the action succeeds or the planner stops
asking for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from reconciler.core import backoff
from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune, subject_of
from reconciler.core.observed import Failure, FlowKey, Reason, SocketKey, Tries
from reconciler.core.subject import Subject

# The type and the object of an action, without `why`: the planner may ask for the same action with another reason.
_Key = tuple[type, str | int | SocketKey | FlowKey]


@dataclass(frozen=True, slots=True)
class _Fault:
    subject: Subject
    tries: Tries


class Faults:
    """Records the failures of actions that the planner still asks for, and when each may be retried."""

    def __init__(self) -> None:
        self._faults: dict[_Key, _Fault] = {}

    def is_due(self, action: Action, now: float) -> bool:
        """Return False if the action failed and its next try is not due yet."""
        fault = self._faults.get(_key(action)) if self._faults else None
        return fault is None or backoff.next_fault_try(fault.tries) <= now

    def failed(self, action: Action, error: BaseException, now: float) -> None:
        """Record that the action raised `error`."""
        key = _key(action)
        before = self._faults.get(key)
        failure = internal(_DOING[type(action)], error)
        tries = backoff.failed(before.tries if before is not None else None, failure, now, None, "")
        self._faults[key] = _Fault(subject_of(action), tries)

    def succeeded(self, action: Action) -> None:
        """Drop the record of the action."""
        if self._faults:
            self._faults.pop(_key(action), None)

    def keep(self, actions: Iterable[Action]) -> None:
        """Drop the records of all actions except these."""
        if self._faults:
            kept = {_key(action) for action in actions}
            self._faults = {key: fault for key, fault in self._faults.items() if key in kept}

    @property
    def next_try(self) -> float:
        """The earliest next try (monotonic), inf if there are no records."""
        return min((backoff.next_fault_try(fault.tries) for fault in self._faults.values()), default=math.inf)

    def by_subject(self) -> Mapping[str, Tries]:
        """Return the latest failure for each target name and tunnel id."""
        latest: dict[str, Tries] = {}
        for fault in self._faults.values():
            before = latest.get(fault.subject.name)
            if before is None or before.at <= fault.tries.at:
                latest[fault.subject.name] = fault.tries
        return latest


def internal(doing: str, error: BaseException) -> Failure:
    """Return the failure for an internal error while `doing` something."""
    return Failure(Reason.INTERNAL, f"internal error while {doing} ({type(error).__name__})")


_DOING: Mapping[type, str] = {
    Dial: "starting a connection",
    Retire: "retiring a connection",
    Tune: "changing the settings of a connection",
    Open: "opening a listener",
    Close: "closing a listener",
    Assign: "assigning a listener to another tunnel",
    Move: "moving a listener to another connection",
    Drain: "setting the drain deadline of clients",
    Cut: "disconnecting clients",
}


def _key(action: Action) -> _Key:
    match action:
        case Dial():
            return Dial, action.target.name
        case Retire() | Tune():
            return type(action), action.link
        case Open() | Close() | Assign() | Move():
            return type(action), action.key
        case Drain() | Cut():
            return type(action), action.flow
        case _:
            assert_never(action)
