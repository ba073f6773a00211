"""What the planner can ask for. Each action is a value with its reason; carrying one out is the actuator's."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.observed import Draining, FlowKey, SocketKey
from reconciler.core.spec import TargetSettings, TargetSpec, TunnelSpec


@dataclass(frozen=True, slots=True)
class Cut:
    """End these clients now."""

    flow: FlowKey
    why: str


@dataclass(frozen=True, slots=True)
class Close:
    """Stop listening. Clients already in stay until they are drained."""

    key: SocketKey
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Give this connection no new clients; it closes with its last one. A dial under way is given up."""

    link: int
    target: str
    why: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Hand a listening socket to a tunnel: its route and policy hold for new clients from now on.

    Live clients that came in by this socket and go where the new owner goes become the new owner's (a rename).
    """

    key: SocketKey
    tunnel: TunnelSpec
    why: str


@dataclass(frozen=True, slots=True)
class Tune:
    """Change a live connection's settings in place."""

    link: int
    target: str
    settings: TargetSettings
    why: str


@dataclass(frozen=True, slots=True)
class Move:
    """Carry a remote listener by another connection: cancel there, request here."""

    key: SocketKey
    link: int
    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Give these clients a deadline, or (None) take it back."""

    flow: FlowKey
    draining: Draining | None
    why: str


@dataclass(frozen=True, slots=True)
class Open:
    """Start listening for this tunnel. `link` carries a remote listener, None for a local one."""

    key: SocketKey
    tunnel: TunnelSpec
    link: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Make a connection, trying hosts[:limit] in order."""

    target: TargetSpec
    limit: int
    why: str


Action = Cut | Close | Retire | Assign | Tune | Move | Drain | Open | Dial
