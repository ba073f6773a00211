"""The actions that the planner can ask for. Each is a value with its reason; the actuator carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from reconciler.core.observed import Draining, FlowKey, SocketKey
from reconciler.core.spec import TargetSettings, TargetSpec, TunnelSpec
from reconciler.core.subject import Subject

# Reasons of actions that reports compare.
ASKED_FOR = "the configuration asks for it"
ACCESS_CHANGED = "its connection settings changed"


@dataclass(frozen=True, slots=True)
class Cut:
    """Disconnect the clients of a flow now."""

    flow: FlowKey
    why: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the listener of a tunnel. Its live clients stay until they are drained."""

    key: SocketKey
    tunnel: str
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Give a link no new clients. It closes with its last client; a dial in progress is cancelled."""

    link: int
    target: str
    why: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Assign a listener to a tunnel, whose route and policy then apply to new clients.

    Live clients that this listener accepted become clients of the new owner if the route stays the same (a rename).
    """

    key: SocketKey
    tunnel: TunnelSpec
    why: str


@dataclass(frozen=True, slots=True)
class Tune:
    """Change the settings of a live link in place."""

    link: int
    target: str
    settings: TargetSettings
    why: str


@dataclass(frozen=True, slots=True)
class Move:
    """Move the remote listener of a tunnel to another link: cancel it on the old one, request it on the new one."""

    key: SocketKey
    tunnel: str
    link: int
    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Set the drain deadline of a flow, or remove it (None)."""

    flow: FlowKey
    draining: Draining | None
    why: str


@dataclass(frozen=True, slots=True)
class Open:
    """Open a listener for a tunnel. `link` carries a remote listener; it is None for a local one."""

    key: SocketKey
    tunnel: TunnelSpec
    link: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to a target, trying hosts[:limit] in order."""

    target: TargetSpec
    limit: int
    why: str


Action = Cut | Close | Retire | Assign | Tune | Move | Drain | Open | Dial


def subject_of(action: Action) -> Subject:
    """Return the target or tunnel that the action applies to."""
    match action:
        case Dial():
            return Subject("target", action.target.name)
        case Retire() | Tune():
            return Subject("target", action.target)
        case Open() | Assign():
            return Subject("tunnel", action.tunnel.id)
        case Close() | Move():
            return Subject("tunnel", action.tunnel)
        case Drain() | Cut():
            return Subject("tunnel", action.flow.tunnel)
        case _:
            assert_never(action)
