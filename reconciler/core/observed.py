"""What is there: the observed world, as the actuator publishes it and the planner and the reports read it.

`Observed` is one immutable value; nothing in it is shared with the machinery that made it. Times are monotonic
seconds unless a name says `wall`.
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
    """What a target or tunnel is (DESIGN section 5)."""

    PENDING = "pending"
    CONNECTING = "connecting"
    UP = "up"
    UNHEALTHY = "unhealthy"
    DOWN = "down"
    DRAINING = "draining"
    STANDBY = "standby"
    OFF = "off"


class Reason(StrEnum):
    """Why something is not up. A closed set: these are metric label values too (DESIGN section 5)."""

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


_DEFAULT_FIX = {
    Reason.DNS: "correct the name, or the resolver of the machine that looks it up",
    Reason.REFUSED: "start the SSH server there, or correct host and port",
    Reason.UNREACHABLE: "check the route, the VPN and the firewalls on the way",
    Reason.TIMEOUT: "check the firewalls on the way: one of them may drop packets",
    Reason.SERVER_BUSY: "wait, or see MaxStartups and PerSourcePenalties on the server",
    Reason.HOST_KEY: "compare the key with the server's; `tunnels trust` prints the `hostKeys` to paste",
    Reason.AUTH: "correct user or key here, or authorized_keys on the server",
    Reason.CERTIFICATE_EXPIRED: "have a new certificate signed",
    Reason.SECRET_UNREADABLE: "put the secret there, readable, or name another place; a changed file is tried at once",
    Reason.PROTOCOL: "compare `algorithms` with what the server offers",
    Reason.KEEPALIVE: "check the network, and whether the server hangs",
    Reason.CLOSED_BY_SERVER: "see the server's log",
    Reason.BIND: "correct the address, or allow this process to listen there",
    Reason.LOCAL_PORT_IN_USE: "stop what listens there, or choose another port",
    Reason.REMOTE_PORT_IN_USE: "free the port on the server, or choose another; see PermitListen there",
    Reason.FORBIDDEN_BY_SERVER: "allow it on the server: AllowTcpForwarding, PermitOpen, PermitListen",
    Reason.DESTINATION: "start the destination, or correct its address",
    Reason.PROBE: "see the destination's log; correct `health` if the probe asks for the wrong thing",
    Reason.RESOURCES: "free memory or descriptors, or raise the limit",
    Reason.INTERNAL: "report it with the log of this process",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong.

    reason    one of a closed set, for programs
    what      what happened, for people
    fix       what to do about it; "" is the default of the reason. `advice` is the text either way
    """

    reason: Reason
    what: str
    fix: str = ""

    @property
    def advice(self) -> str:
        return self.fix or _DEFAULT_FIX[self.reason]

    @property
    def message(self) -> str:
        """The sentence that people read: `what: advice`."""
        return f"{self.what}: {self.advice}"

    @property
    def needs_action(self) -> bool:
        """No retry will help by itself: a person has to change something."""
        return self.reason in NEEDS_ACTION


@dataclass(frozen=True, slots=True)
class Tries:
    """The failures of one thing since it last was well.

    failures      how many in a row
    last          the latest
    at            when that was
    since         when the outage began
    at_once       the next try need not wait (a link that had been up was lost)
    access        what was tried; another access starts afresh. None for sockets
    stamp         state of the files the try read; another stamp is a reason to try at once
    """

    failures: int
    last: Failure
    at: float
    since: float
    at_once: bool
    access: Access | None
    fingerprint: str


class LinkPhase(IntEnum):
    """A link's life. There is no "closed": a closed link is not observed any more."""

    DIALING = 0
    READY = 1
    RETIRING = 2  # takes no new clients; closes itself with its last one


@dataclass(frozen=True, slots=True)
class LinkState:
    """One SSH connection.

    limit         the dial tries hosts[:limit] only (less than all of them: fail-back)
    host          index of the host it reached, -1 while dialing
    passed_over   why it is none of the hosts before that one; None if there are none
    since         when it entered its phase
    trusted       its host key is still among those believed
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


@dataclass(frozen=True, slots=True)
class SocketKey:
    """Which listening socket. `slot` tells sockets with a chosen port apart; it is 0 for a fixed address."""

    listen: Listen
    slot: int


class SocketPhase(IntEnum):
    """A listener's life; a closed one is not observed any more."""

    OPENING = 0
    BOUND = 1
    CLOSING = 2


@dataclass(frozen=True, slots=True)
class SocketState:
    """One listening socket.

    link      the connection that carries a remote one, None for a local one
    bound     its address, "" before it has one
    remark    a sentence on what is wrong beside it and keeps no client away (its `portFile`), "" nothing
    """

    key: SocketKey
    owner: TunnelSpec
    phase: SocketPhase
    link: int | None
    bound: str
    remark: str = ""


class DrainCause(IntEnum):
    """Why clients may not stay: their tunnel leads elsewhere now (or is gone), or their connection was replaced."""

    ROUTE = 0
    LINK = 1


@dataclass(frozen=True, slots=True)
class Draining:
    """Clients with a deadline (monotonic)."""

    cause: DrainCause
    deadline: float


@dataclass(frozen=True, slots=True)
class FlowKey:
    """Live clients that share a fate: of one tunnel, in by one address, to one route, over one link."""

    tunnel: str
    listen: Listen
    route: Route
    link: int


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """A client: where it comes from, where it goes, and the SOCKS user it logged in as, if any."""

    origin: Origin
    to: str
    asked: FarTcp | None = None
    user: SocksUser | None = None


@dataclass(frozen=True, slots=True)
class FlowState:
    """Who shares it, how long they may drain if their tunnel is gone, and whether they already do."""

    key: FlowKey
    visitors: tuple[ClientInfo, ...]
    drain_timeout: float
    draining: Draining | None

    @property
    def count(self) -> int:
        return len(self.visitors)


@dataclass(frozen=True, slots=True)
class Demand:
    """Who wants a target: clients held for it now, and when the last client used it."""

    held: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Destination:
    """What dialling a tunnel's destination, or probing it, last said. `failure` None: well."""

    failures: int
    failure: Failure | None


_NO_FAULTS: Mapping[str, Tries] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Observed:
    """The live world at one moment.

    links, flows          everything there is, draining included
    sockets               by key
    link_tries            by target, while a connection is missing (or a preferred host is)
    socket_tries          by socket, while it cannot be opened
    demand                by target
    stamps                by target: state of the credential and trust files it names
    destinations, probes  by tunnel id, only where something was heard
    stalled               links from which nothing was heard for a keepalive interval
    faults                by target name or tunnel id: what a fault of this program kept from being carried out
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
