"""The desired state: targets and tunnels as frozen values, divided by the effect of an edit (docs/architecture.md).

A target is an `Access` (how it is reached; a change needs another link, made before the old one is retired) and
`TargetSettings` (changed in place). A tunnel is a `Listen` (which socket; a change needs another socket), a `Route`
(where new clients go) and a `Policy` (changed in place). Comparing these values shows what changed; there is no table
of field names.

Times are in seconds (float), sizes in bytes, `expires_at` is Unix time. No field has a default here: the JSON Schema is
the only source of defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Self, TypeVar

from reconciler.core.off import Off
from reconciler.core.outbound import Outbound
from reconciler.core.secret import Source

_T = TypeVar("_T")

# --- a target: how it is reached ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or address, IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class KeyLogin:
    """Log in with a private key, and with its certificate if there is one."""

    key: Source
    passphrase: Source | None
    certificate: Source | None


@dataclass(frozen=True, slots=True)
class AgentLogin:
    """Log in with the keys of an agent. `socket` "" means $SSH_AUTH_SOCK; `only` is the .pub file of the key to use."""

    socket: str
    only: str


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """Log in with a password, by the password method or as the answer of keyboard-interactive."""

    password: Source


Login = KeyLogin | AgentLogin | PasswordLogin


class TrustMode(StrEnum):
    """What to do with an unknown host key: refuse it, pin it, or accept it every time."""

    STRICT = "strict"
    ACCEPT_NEW = "accept-new"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Trust:
    """Which host keys are trusted. Pinned keys take precedence over known_hosts; `alias` replaces the host name.

    `command` is the `tunnels trust` command that pins the keys, for messages; "" if the files cannot be read again.
    """

    mode: TrustMode
    host_keys: tuple[str, ...]
    known_hosts: tuple[str, ...]
    alias: str
    command: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Algorithms:
    """The algorithms to offer, preferred ones first. An empty tuple means the default offer."""

    cipher: tuple[str, ...]
    kex: tuple[str, ...]
    mac: tuple[str, ...]
    host_key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hop:
    """One SSH server on the way to a target. Logins are tried in order."""

    hosts: tuple[Endpoint, ...]  # in order of preference
    user: str
    logins: tuple[Login, ...]
    trust: Trust
    algorithms: Algorithms
    compress: bool
    strict_key_permissions: bool


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that needs another SSH connection when it changes.

    `via` are the jump hosts, outermost first. `outbound` is for the connection to the first of them, or to `hop`.
    `generation` counts requested restarts: a restart is thus a change of access, and the planner handles it like any
    other.
    """

    hop: Hop
    via: tuple[Hop, ...]
    proxy_command: tuple[str, ...]
    outbound: Outbound
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Backoff between tries: starts at `initial`, multiplied by `factor` each time, up to `max`."""

    initial: float
    max: float
    factor: float


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """The settings that change in place on a live link."""

    connect_timeouts: tuple[float, ...]  # one for each of `via`, then one for the target
    dial_timeout: float
    keepalive_interval: float  # 0 for none
    keepalive_count_max: int
    handover_timeout: float
    reconnect: Reconnect
    log_level: str


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """An SSH server and the number of connections to it. `on_demand` is the idle timeout, None to stay connected.

    `off` is None, or why it is off.
    """

    name: str
    access: Access
    settings: TargetSettings
    connections: int
    on_demand: float | None
    off: Off | None


# --- a tunnel: socket, route and policy ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalTcp:
    """Listen here. `first` == `last` is one port, 0-0 is any free port; a range means its first free port."""

    host: str
    first: int
    last: int

    def __str__(self) -> str:
        ports = "(any port)" if not self.first else str(self.first)
        if self.first != self.last:
            ports += f"-{self.last}"
        return f"[{self.host}]:{ports}" if ":" in self.host else f"{self.host}:{ports}"


@dataclass(frozen=True, slots=True)
class LocalUnix:
    """Listen here, on a unix socket. `mode` are its permission bits; `group` "" keeps the group of the process."""

    path: str
    mode: int
    group: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class RemoteTcp:
    """Listen on the SSH server of `target`. Port 0 lets the server choose."""

    target: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{Endpoint(self.host, self.port)} on {self.target}"


@dataclass(frozen=True, slots=True)
class RemoteUnix:
    """Listen on the SSH server of `target`, on a unix socket."""

    target: str
    path: str

    def __str__(self) -> str:
        return f"{self.path} on {self.target}"


Listen = LocalTcp | LocalUnix | RemoteTcp | RemoteUnix


@dataclass(frozen=True, slots=True)
class FarTcp:
    """A TCP destination dialled from the SSH server of `target`."""

    target: str
    host: str
    port: int

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port))


@dataclass(frozen=True, slots=True)
class FarUnix:
    """A unix socket dialled on the SSH server of `target`."""

    target: str
    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class NearTcp:
    """A TCP destination dialled from here (for listeners on the server)."""

    host: str
    port: int

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port))


@dataclass(frozen=True, slots=True)
class NearUnix:
    """A unix socket dialled here (for listeners on the server)."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Socks:
    """Each client requests its destination (RFC 1928 CONNECT), dialled from the SSH server of `target`."""

    target: str

    def __str__(self) -> str:
        return "(each client's choice)"


Route = FarTcp | FarUnix | NearTcp | NearUnix | Socks


@dataclass(frozen=True, slots=True)
class SocksUser:
    """One user of a SOCKS tunnel (RFC 1929)."""

    name: str
    password: Source


@dataclass(frozen=True, slots=True)
class Health:
    """An active probe through the tunnel. `type` is a name in `probes/`; `path` is for http."""

    type: str
    path: str
    interval: float
    timeout: float
    failure_threshold: int
    reconnect: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of a tunnel that change in place: limits, rules, timeouts, description."""

    description: str
    labels: tuple[tuple[str, str], ...]
    allow: tuple[str, ...]  # source CIDRs; empty allows all
    deny: tuple[str, ...]
    max_connections: int  # 0 for no limit
    hold_timeout: float
    idle_timeout: float  # 0 for none
    drain_timeout: float
    bandwidth_limit: int  # bytes per second in each direction, shared by all clients; 0 for none
    allow_destinations: tuple[str, ...]
    deny_destinations: tuple[str, ...]
    users: tuple[SocksUser, ...]
    health: Health | None
    critical: bool
    audit: bool
    expires_at: float | None
    standby: bool  # a taken remote port is not a failure: another replica serves it
    port_file: str


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """One tunnel. `id` is <target>/<name>; `off` is None, or why it is off."""

    id: str
    target: str
    name: str
    listen: Listen
    route: Route
    policy: Policy
    off: Off | None

    @property
    def kind(self) -> str:
        """The type as in the file: local, remote or socks."""
        match self.route:
            case FarTcp() | FarUnix():
                return "local"
            case NearTcp() | NearUnix():
                return "remote"
            case Socks():
                return "socks"


@dataclass(frozen=True, slots=True)
class Desired:
    """All desired targets by name, and all desired tunnels by id."""

    targets: Mapping[str, TargetSpec]
    tunnels: Mapping[str, TunnelSpec]

    @classmethod
    def of(cls, targets: Iterable[TargetSpec], tunnels: Iterable[TunnelSpec]) -> Self:
        return cls(
            MappingProxyType({target.name: target for target in targets}),
            MappingProxyType({tunnel.id: tunnel for tunnel in tunnels}),
        )

    def sharing(self, previous: Desired) -> Desired:
        """Return an equal value that reuses the equal objects of `previous`.

        An unchanged tunnel is then the *identical* object from edit to edit, and a pass over ten thousand tunnels
        compares pointers only.
        """
        return Desired.of(
            (_shared(new, previous.targets.get(new.name)) for new in self.targets.values()),
            (_shared(new, previous.tunnels.get(new.id)) for new in self.tunnels.values()),
        )

    def restarted(self, generations: Mapping[str, int]) -> Desired:
        """Return this state with the access of each named target at its generation."""
        return Desired.of(
            (
                replace(t, access=replace(t.access, generation=generations[t.name])) if t.name in generations else t
                for t in self.targets.values()
            ),
            self.tunnels.values(),
        )


def _shared(new: _T, old: _T | None) -> _T:
    return old if old is not None and old == new else new


NOTHING = Desired.of((), ())
