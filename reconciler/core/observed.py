"""The observed state: published by the actuator, read by the planner and the reports.

`Observed` is an immutable value and shares no mutable data with the actuator. Times are monotonic seconds unless a name
contains `wall`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType

from reconciler.core.rules.origin import Origin
from reconciler.core.spec import Access, FarTcp, Listen, Route, SocksUser, TargetSettings, TunnelSpec


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks: `mono` for backoff and deadlines, `wall` (Unix time) for `expiresAt`."""

    mono: float
    wall: float


class Phase(StrEnum):
    """The phase of a target or tunnel (docs/contract.md, "Status")."""

    PENDING = "pending"
    CONNECTING = "connecting"
    UP = "up"
    UNHEALTHY = "unhealthy"
    DOWN = "down"
    DRAINING = "draining"
    STANDBY = "standby"
    OFF = "off"


class Reason(StrEnum):
    """Why a target or tunnel is not up. A closed set, also used as metric label values (docs/contract.md, "Status")."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    SERVER_BUSY = "server_busy"
    HOST_KEY = "host_key"
    AUTH = "auth"
    CERTIFICATE_EXPIRED = "certificate_expired"
    PROTOCOL = "protocol"
    KEEPALIVE = "keepalive"
    CLOSED_BY_SERVER = "closed_by_server"
    LOCAL_PORT_IN_USE = "local_port_in_use"
    BIND = "bind"
    REMOTE_PORT_IN_USE = "remote_port_in_use"
    FORBIDDEN_BY_SERVER = "forbidden_by_server"
    DESTINATION = "destination"
    PROBE = "probe"
    SECRET_UNREADABLE = "secret_unreadable"  # noqa: S105 - the name of a reason
    RESOURCES = "resources"
    INTERNAL = "internal"


NEEDS_ACTION = frozenset(
    {
        Reason.AUTH,
        Reason.HOST_KEY,
        Reason.CERTIFICATE_EXPIRED,
        Reason.SECRET_UNREADABLE,
        Reason.BIND,
        Reason.FORBIDDEN_BY_SERVER,
    }
)


DEFAULT_FIX = {
    Reason.DNS: "correct the name, or check the resolver",
    Reason.REFUSED: "start the SSH server, or correct `host` and `port`",
    Reason.UNREACHABLE: "check the route, the VPN and the firewalls on the way",
    Reason.TIMEOUT: "check the firewalls on the way: one of them may drop packets",
    Reason.SERVER_BUSY: "wait, or see MaxStartups and PerSourcePenalties on the server",
    Reason.HOST_KEY: "compare the key with the server's; `tunnels trust` prints the `hostKeys` to paste",
    Reason.AUTH: "check `user` and the key here, and authorized_keys on the server",
    Reason.CERTIFICATE_EXPIRED: "have a new certificate signed",
    Reason.SECRET_UNREADABLE: "check that it exists and is readable; a changed file is tried at once",
    Reason.PROTOCOL: "compare `algorithms` with what the server offers",
    Reason.KEEPALIVE: "check the network, and whether the server hangs",
    Reason.CLOSED_BY_SERVER: "see the server's log",
    Reason.BIND: "correct the address, or allow this process to listen there",
    Reason.LOCAL_PORT_IN_USE: "stop what listens there, or choose another port",
    Reason.REMOTE_PORT_IN_USE: "free the port on the server, or choose another; see PermitListen in its sshd_config",
    Reason.FORBIDDEN_BY_SERVER: "allow it on the server: AllowTcpForwarding, PermitOpen, PermitListen",
    Reason.DESTINATION: "start the destination, or correct its address",
    Reason.PROBE: "see the destination's log; correct `health` if the probe asks for the wrong thing",
    Reason.RESOURCES: "free memory or descriptors, or raise the limit",
    Reason.INTERNAL: "report it with the log of this process",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure.

    reason    one of a closed set, for programs
    what      what happened, for people
    fix       what to do about it; "" means the default text of the reason. `advice` returns the text in both cases
    ends_at   when it ends by itself (wall), for a certificate that becomes valid; None if that is not known
    """

    reason: Reason
    what: str
    fix: str = ""
    ends_at: float | None = None

    @property
    def advice(self) -> str:
        return self.fix or DEFAULT_FIX[self.reason]

    @property
    def message(self) -> str:
        """The sentence that people read: `what: advice`."""
        return f"{self.what}: {self.advice}"

    @property
    def needs_action(self) -> bool:
        """True if no retry succeeds until a person changes something."""
        return self.reason in NEEDS_ACTION and self.ends_at is None


@dataclass(frozen=True, slots=True)
class Tries:
    """The failures of one target, socket or action since its last success.

    failures      the number of failures in a row
    last          the latest failure
    at            when it happened
    since         when the outage began
    at_once       the next try is due immediately (a link that had been up was lost)
    access        the access that failed; another access starts a new count. None for sockets
    fingerprint   the state of the files that the try read; if it differs, the next try is due immediately
    """

    failures: int
    last: Failure
    at: float
    since: float
    at_once: bool
    access: Access | None
    fingerprint: str


class LinkPhase(IntEnum):
    """The phases of a link. A closed link is no longer part of `Observed`."""

    DIALING = 0
    READY = 1
    RETIRING = 2  # takes no new clients; closes itself with its last one


@dataclass(frozen=True, slots=True)
class LinkState:
    """One SSH connection.

    limit                    the dial tries hosts[:limit] only (fewer than all hosts for a fail-back)
    host                     index of the connected host, -1 while dialling
    preferred_host_failure   why the hosts before `host` were not reached; None if `host` is the first
    since                    when the link entered its phase
    trusted                  the host key is still a trusted one
    remark                   what the server said at the end of the login, "" if nothing
    """

    id: int
    target: str
    access: Access
    settings: TargetSettings
    limit: int
    host: int
    preferred_host_failure: Failure | None
    phase: LinkPhase
    since: float
    trusted: bool
    remark: str = ""


@dataclass(frozen=True, slots=True)
class SocketKey:
    """The key of a listening socket. `slot` distinguishes sockets with a chosen port; it is 0 for a fixed address."""

    listen: Listen
    slot: int


class SocketPhase(IntEnum):
    """The phases of a listening socket. A closed one is no longer part of `Observed`."""

    OPENING = 0
    BOUND = 1
    CLOSING = 2


@dataclass(frozen=True, slots=True)
class SocketState:
    """One listening socket.

    link      the link that carries a remote listener, None for a local one
    bound     the bound address, "" before it is bound
    remark    the message of a problem that does not affect clients (its `portFile`), "" if there is none
    """

    key: SocketKey
    owner: TunnelSpec
    phase: SocketPhase
    link: int | None
    bound: str
    remark: str = ""


class DrainCause(IntEnum):
    """Why clients are drained: their tunnel was changed or removed, or their link was replaced."""

    ROUTE = 0
    LINK = 1


@dataclass(frozen=True, slots=True)
class Draining:
    """The cause and deadline (monotonic) of a drain."""

    cause: DrainCause
    deadline: float


@dataclass(frozen=True, slots=True)
class FlowKey:
    """The key of a flow: the clients of one tunnel, accepted at one address, with one route and one link."""

    tunnel: str
    listen: Listen
    route: Route
    link: int


class ClientResult(StrEnum):
    """How the attempt of a client to connect ended; the label `result` of a metric (docs/contract.md, "Metrics")."""

    OK = "ok"
    DENIED = "denied"
    LIMIT = "limit"
    HOLD_TIMEOUT = "hold_timeout"
    DIAL_FAILED = "dial_failed"
    AUTH_FAILED = "auth_failed"
    LEFT = "left"  # the client went away before it had a channel


@dataclass(frozen=True, slots=True)
class ClientFailure:
    """A client that got no connection to its destination.

    at       when (Unix time)
    origin   its origin as text, "" for a client of a unix socket
    result   what it was counted as
    why      what happened, and what to do about it if anything
    """

    at: float
    origin: str
    result: ClientResult
    why: str


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """A client as the rules see it: its origin; for SOCKS the destination that it requested, and its user, if any."""

    origin: Origin
    requested: FarTcp | None = None
    user: SocksUser | None = None


@dataclass(frozen=True, slots=True)
class FlowState:
    """One flow: its clients, how long they may drain once the tunnel is removed, and their deadline, if any."""

    key: FlowKey
    clients: tuple[ClientInfo, ...]
    drain_timeout: float
    draining: Draining | None

    @property
    def count(self) -> int:
        return len(self.clients)


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand for a target: the number of held clients, and when a client last used it."""

    held: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Destination:
    """The latest result of dialling or probing a tunnel's destination. `failure` is None after a success."""

    failures: int
    failure: Failure | None


_NO_FAULTS: Mapping[str, Tries] = MappingProxyType({})
_NO_LOSSES: Mapping[str, Failure] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Observed:
    """The observed state at one moment.

    links, flows          all of them, including retiring and draining ones
    sockets               by key
    link_tries            by target, while a connection (or its preferred host) is missing
    socket_tries          by socket, while it cannot be opened
    demand                by target
    fingerprints          by target: the state of the credential and trust files that it names
    destinations, probes  by tunnel id, once there is a result
    stalled               links in doubt: nothing was received for a keepalive interval, or in answer to a request
    repeated_losses       by target: the last failure with the likely cause, if its connections are lost repeatedly
    faults                by target name or tunnel id: actions that raised an internal error
    """

    links: tuple[LinkState, ...]
    sockets: Mapping[SocketKey, SocketState]
    flows: tuple[FlowState, ...]
    link_tries: Mapping[str, Tries]
    socket_tries: Mapping[SocketKey, Tries]
    demand: Mapping[str, Demand]
    fingerprints: Mapping[str, str]
    destinations: Mapping[str, Destination]
    probes: Mapping[str, Destination]
    stalled: frozenset[int]
    faults: Mapping[str, Tries] = field(default_factory=lambda: _NO_FAULTS)
    repeated_losses: Mapping[str, Failure] = field(default_factory=lambda: _NO_LOSSES)


EMPTY = Observed(
    links=(),
    sockets=MappingProxyType({}),
    flows=(),
    link_tries=MappingProxyType({}),
    socket_tries=MappingProxyType({}),
    demand=MappingProxyType({}),
    fingerprints=MappingProxyType({}),
    destinations=MappingProxyType({}),
    probes=MappingProxyType({}),
    stalled=frozenset(),
)
