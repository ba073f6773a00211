"""Builders of specs with defaults, so that a test names only the fields it is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, assert_never

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.observed import EMPTY, Failure, LinkPhase, LinkState, Now, Reason, SocketState
from reconciler.core.off import Off
from reconciler.core.outbound import ANY_ADDRESS
from reconciler.core.plan import make_plan
from reconciler.core.rules.origin import Origin, tcp_origin
from reconciler.core.secret import FromFile
from reconciler.core.simulation.plan import converge
from reconciler.core.simulation.simulator import Simulator
from reconciler.core.spec import (
    Access,
    Algorithms,
    Desired,
    Endpoint,
    FarTcp,
    Hop,
    KeyLogin,
    Listen,
    LocalTcp,
    NearTcp,
    Policy,
    Reconnect,
    RemoteTcp,
    Route,
    Socks,
    TargetSettings,
    TargetSpec,
    Trust,
    TrustMode,
    TunnelSpec,
)

START = Now(mono=1000.0, wall=1_800_000_000.0)

REFUSED = Failure(Reason.REFUSED, "connection refused")
CLOSED = Failure(Reason.CLOSED_BY_SERVER, "the server closed the connection")
TIMEOUT = Failure(Reason.TIMEOUT, "no answer")
AUTH = Failure(Reason.AUTH, "permission denied")

POLICY = Policy(
    description="",
    labels=(),
    allow=(),
    deny=(),
    max_connections=200,
    hold_timeout=10.0,
    idle_timeout=0.0,
    drain_timeout=30.0,
    bandwidth_limit=0,
    allow_destinations=(),
    deny_destinations=(),
    users=(),
    health=None,
    critical=True,
    audit=False,
    expires_at=None,
    standby=False,
    port_file="",
)

SETTINGS = TargetSettings(
    connect_timeouts=(15.0,),
    dial_timeout=10.0,
    keepalive_interval=10.0,
    keepalive_count_max=2,
    handover_timeout=86_400.0,
    reconnect=Reconnect(initial=0.25, max=30.0, factor=2.0),
    log_level="info",
)


def origin(address: str, port: int = 50_000) -> Origin:
    """A TCP client's origin, or an unknown one if that is not an address."""
    return tcp_origin(address, port)


def access(*hosts: str, user: str = "deploy", generation: int = 0) -> Access:
    hop = Hop(
        hosts=tuple(Endpoint(host, 22) for host in hosts),
        user=user,
        logins=(KeyLogin(FromFile("/keys/id"), None, None),),
        trust=Trust(TrustMode.STRICT, (), ("/keys/known_hosts",), ""),
        algorithms=Algorithms((), (), (), ()),
        compress=False,
        strict_key_permissions=False,
    )
    return Access(hop, (), (), ANY_ADDRESS, generation)


def target(
    name: str = "prod",
    *,
    hosts: tuple[str, ...] = (),
    user: str = "deploy",
    generation: int = 0,
    connections: int = 1,
    on_demand: float | None = None,
    off: Off | None = None,
    **settings: Any,
) -> TargetSpec:
    return TargetSpec(
        name=name,
        access=access(*(hosts or (f"{name}.example.com",)), user=user, generation=generation),
        settings=replace(SETTINGS, **settings),
        connections=connections,
        on_demand=on_demand,
        off=off,
    )


def tunnel(id_: str, listen: Listen, route: Route, *, off: Off | None = None, **policy: Any) -> TunnelSpec:
    target_name, _, name = id_.partition("/")
    return TunnelSpec(id_, target_name, name, listen, route, replace(POLICY, **policy), off)


def local(
    id_: str = "prod/db",
    port: int | tuple[int, int] = 5432,
    *,
    host: str = "127.0.0.1",
    to: str = "db",
    **more: Any,
) -> TunnelSpec:
    """A local tunnel. `port` may be 0 (any) or a range; `to` is the host it leads to."""
    first, last = port if isinstance(port, tuple) else (port, port)
    return tunnel(id_, LocalTcp(host, first, last), FarTcp(id_.partition("/")[0], to, 5432), **more)


def remote(
    id_: str = "prod/web", port: int = 8080, *, host: str = "127.0.0.1", to: int = 3000, **more: Any
) -> TunnelSpec:
    """A remote tunnel: the server listens, `to` is the port here."""
    return tunnel(id_, RemoteTcp(id_.partition("/")[0], host, port), NearTcp("localhost", to), **more)


def socks(id_: str = "prod/socks", port: int = 1080, **more: Any) -> TunnelSpec:
    return tunnel(id_, LocalTcp("127.0.0.1", port, port), Socks(id_.partition("/")[0]), **more)


def desired(*things: TargetSpec | TunnelSpec) -> Desired:
    return Desired.of(
        (thing for thing in things if isinstance(thing, TargetSpec)),
        (thing for thing in things if isinstance(thing, TunnelSpec)),
    )


class World(Simulator):
    """A simulator with the reconcile loop, driven step by step by a test."""

    def __init__(self, *, instant: bool = False) -> None:
        super().__init__(EMPTY, START, instant=instant)
        self.asked = desired()

    def edit(self, *things: TargetSpec | TunnelSpec) -> list[Action]:
        """Change the desired state. Return the actions that are applied at once."""
        self.asked = desired(*things).sharing(self.asked)
        return self.passes()

    def passes(self) -> list[Action]:
        """Run passes of the loop until no action is due."""
        return list(converge(self, self.asked))

    def settled(self, *things: TargetSpec | TunnelSpec) -> list[Action]:
        """Change the desired state, and let everything succeed."""
        steps = self.edit(*things)
        return steps + self.all_well()

    def all_well(self) -> list[Action]:
        """Finish everything in progress with success, and what follows from it, until no action is due."""
        steps: list[Action] = self.passes()
        while self.under_way():
            self.settle()
            steps += self.passes()
        return steps

    def wake_at(self) -> float:
        return make_plan(self.asked, self.observe(), self.now()).wake_at

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass. The loop wakes as planned; what it starts does not finish by itself."""
        end = self.now().mono + seconds
        steps: list[Action] = self.passes()
        while (at := self.wake_at()) < end:
            self.elapse(at - self.now().mono)
            steps += self.passes()
        self.elapse(end - self.now().mono)
        return steps + self.passes()

    def links(self, phase: LinkPhase | None = None) -> list[LinkState]:
        return [link for link in self.observe().links if phase is None or link.phase is phase]

    def link(self) -> LinkState:
        """Return the only link."""
        (link,) = self.observe().links
        return link

    def sockets(self) -> list[SocketState]:
        return list(self.observe().sockets.values())

    def socket(self) -> SocketState:
        """Return the only socket."""
        (socket,) = self.observe().sockets.values()
        return socket

    def socket_of(self, tunnel_id: str) -> SocketState:
        (socket,) = (socket for socket in self.sockets() if socket.owner.id == tunnel_id)
        return socket


def told(steps: Iterable[Action]) -> list[str]:
    """Return the actions in a few words each, for comparison in tests."""
    return [_told(step) for step in steps]


def _told(step: Action) -> str:  # noqa: C901 - one line for each kind of step
    match step:
        case Dial():
            return f"dial {step.target.name}"
        case Retire():
            return f"retire {step.link}"
        case Tune():
            return f"tune {step.link}"
        case Open():
            return f"open {step.key.listen} for {step.tunnel.id}"
        case Close():
            return f"close {step.key.listen}"
        case Assign():
            return f"assign {step.key.listen} to {step.tunnel.id}"
        case Move():
            return f"move {step.key.listen} to {step.link}"
        case Drain(draining=None):
            return f"revive {step.flow.tunnel}"
        case Drain():
            return f"drain {step.flow.tunnel}"
        case Cut():
            return f"cut {step.flow.tunnel}"
        case _:
            assert_never(step)
