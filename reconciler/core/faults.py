"""Actions that raised when they were carried out, which only a fault of this program does. Pure.

An action that raises ends there: the loop goes on with the others. The planner, which compares what is asked with what
is there, asks for the same action again in its next pass; here it is held back until its next try is due. It is
forgotten as soon as it succeeds, or is not asked for any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from reconciler.core import backoff
from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.observed import Failure, FlowKey, Observed, Reason, SocketKey, Tries

# What an action does to what: the same one asked for again is the same fault, whatever its reason.
_Key = tuple[type, str | int | SocketKey | FlowKey]


@dataclass(frozen=True, slots=True)
class _Fault:
    subject: str
    tries: Tries


class Faults:
    """The faults of the actions that are still asked for."""

    def __init__(self) -> None:
        self._faults: dict[_Key, _Fault] = {}

    def is_due(self, action: Action, now: float) -> bool:
        """Return False if the action failed of late and is not to be tried yet."""
        fault = self._faults.get(_key(action)) if self._faults else None
        return fault is None or backoff.next_fault_try(fault.tries) <= now

    def failed(self, action: Action, observed: Observed, error: BaseException, now: float) -> str:
        """Note that carrying it out raised. Returns the target's name or the tunnel's id that it is about."""
        key = _key(action)
        before = self._faults.get(key)
        subject = subject_of(action, observed)
        failure = internal(_DOING[type(action)], error)
        tries = backoff.failed(before.tries if before is not None else None, failure, now, None, "")
        self._faults[key] = _Fault(subject, tries)
        return subject

    def succeeded(self, action: Action) -> None:
        """Forget its fault."""
        if self._faults:
            self._faults.pop(_key(action), None)

    def keep(self, actions: Iterable[Action]) -> None:
        """Forget the faults of all actions but these."""
        if self._faults:
            kept = {_key(action) for action in actions}
            self._faults = {key: fault for key, fault in self._faults.items() if key in kept}

    @property
    def next_try(self) -> float:
        """When the first of them is due again (monotonic), inf if there are none."""
        return min((backoff.next_fault_try(fault.tries) for fault in self._faults.values()), default=math.inf)

    def by_subject(self) -> Mapping[str, Tries]:
        """Return the latest fault of each target, by its name, and of each tunnel, by its id."""
        latest: dict[str, Tries] = {}
        for fault in self._faults.values():
            before = latest.get(fault.subject)
            if before is None or before.at <= fault.tries.at:
                latest[fault.subject] = fault.tries
        return latest


def internal(doing: str, error: BaseException) -> Failure:
    """Return the failure that tells of a fault of this program while it was `doing` something."""
    what = f"a fault of this program while {doing} ({type(error).__name__})"
    return Failure(Reason.INTERNAL, what)


_DOING: Mapping[type, str] = {
    Dial: "beginning to connect",
    Retire: "taking a connection out of service",
    Tune: "changing a connection's settings",
    Open: "beginning to listen",
    Close: "ending to listen",
    Assign: "handing a listener over",
    Move: "moving a listener to another connection",
    Drain: "giving clients a deadline",
    Cut: "ending clients",
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


def subject_of(action: Action, observed: Observed) -> str:
    """Return the name of the target or the id of the tunnel that the action is about."""
    match action:
        case Dial():
            return action.target.name
        case Retire() | Tune():
            return action.target
        case Open() | Assign():
            return action.tunnel.id
        case Close() | Move():
            socket = observed.sockets.get(action.key)
            return socket.owner.id if socket is not None else ""
        case Drain() | Cut():
            return action.flow.tunnel
        case _:
            assert_never(action)
