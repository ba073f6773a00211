"""What was asked: the desired tunnels, as frozen values cut along what an edit does (DESIGN section 4).

A target is an `Access` (how it is reached: any difference is make before break) and `TargetSettings` (in place).
A tunnel is a `Listen` (which socket: any difference is another socket), a `Route` (where new clients go) and a
`Policy` (in place). "What changed" is equality of these values; there is no table of field names anywhere.

Times are seconds (float), sizes bytes, `expires_at` is Unix time. No field has a default here: the JSON Schema is
the one source of defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Self, TypeVar

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
    """Log in with a private key; with its certificate if one is named."""

    key: Source
    passphrase: Source | None
    certificate: Source | None


@dataclass(frozen=True, slots=True)
class AgentLogin:
    """Log in with the keys of an agent. `socket` "" is $SSH_AUTH_SOCK; `only` is the path of the one .pub to use."""

    socket: str
    only: str


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """Log in with a password, by the password method or as the answer of keyboard-interactive."""

    password: Source


Login = KeyLogin | AgentLogin | PasswordLogin


class TrustMode(StrEnum):
    """What an unknown host key means: refuse, pin it, or accept it every time."""

    STRICT = "strict"
    ACCEPT_NEW = "accept-new"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Trust:
    """Which host keys are believed: pinned lines win over known_hosts files; `alias` replaces the looked-up name."""

    mode: TrustMode
    host_keys: tuple[str, ...]
    known_hosts: tuple[str, ...]
    alias: str


@dataclass(frozen=True, slots=True)
class Algorithms:
    """Offered algorithms, best first; an empty tuple means our default offer."""

    cipher: tuple[str, ...]
    kex: tuple[str, ...]
    mac: tuple[str, ...]
    host_key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hop:
    """One SSH server on the way: where, as whom, with which logins (tried in order), trusting which keys."""

    hosts: tuple[Endpoint, ...]  # in order of preference
    user: str
    logins: tuple[Login, ...]
    trust: Trust
    algorithms: Algorithms
    compress: bool
    strict_key_permissions: bool


@dataclass(frozen=True, slots=True)
class Access:
    """Everything whose change needs another SSH connection.

    `via` are the jump hosts, outermost first. `generation` counts restarts asked for: a restart is a difference
    like any other, so it is made before break by the same rule.
    """

    hop: Hop
    via: tuple[Hop, ...]
    proxy_command: tuple[str, ...]
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Backoff between tries: `initial`, times `factor`, up to `max`."""

    initial: float
    max: float
    factor: float


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """What changes in place on a live link."""

    connect_timeouts: tuple[float, ...]  # one for each of `via`, then the target's own
    dial_timeout: float
    keepalive_interval: float  # 0: none
    keepalive_count_max: int
    handover_timeout: float
    reconnect: Reconnect
    log_level: str


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """One SSH server and how many connections to hold to it. `on_demand` is the idle time, or None for always."""

    name: str
    access: Access
    settings: TargetSettings
    connections: int
    on_demand: float | None
    off: str  # "" or why it is off: "disabled", "paused"


# --- a tunnel: which socket, where to, and how -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalTcp:
    """Listen here. `first` == `last` is one port, 0-0 any free port, else the first free one of the range."""

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
    """Listen here, on a unix socket. `mode` are its permission bits, `group` "" leaves the process's."""

    path: str
    mode: int
    group: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class RemoteTcp:
    """Listen on the SSH server of `target`. Port 0: the server chooses."""

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
    """Each client names its destination (RFC 1928 CONNECT), dialled from the SSH server of `target`."""

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
    """What changes in place: limits, rules, timeouts, and what is shown."""

    description: str
    labels: tuple[tuple[str, str], ...]
    allow: tuple[str, ...]  # source CIDRs; empty: everybody
    deny: tuple[str, ...]
    max_connections: int  # 0: no limit
    hold_timeout: float
    idle_timeout: float  # 0: none
    drain_timeout: float
    bandwidth_limit: int  # bytes a second, each direction, shared; 0: none
    allow_destinations: tuple[str, ...]
    deny_destinations: tuple[str, ...]
    users: tuple[SocksUser, ...]
    health: Health | None
    critical: bool
    audit: bool
    expires_at: float | None
    standby: bool  # a taken remote port is not a fault: another replica serves
    port_file: str


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """One tunnel. `id` is <target>/<name>; `off` "" or why it is off: "disabled", "paused"."""

    id: str
    target: str
    name: str
    listen: Listen
    route: Route
    policy: Policy
    off: str

    @property
    def kind(self) -> str:
        """The file's word for it: local, remote or socks."""
        match self.route:
            case FarTcp() | FarUnix():
                return "local"
            case NearTcp() | NearUnix():
                return "remote"
            case Socks():
                return "socks"


@dataclass(frozen=True, slots=True)
class Desired:
    """All targets and tunnels that are asked for, by name and by id."""

    targets: Mapping[str, TargetSpec]
    tunnels: Mapping[str, TunnelSpec]

    @classmethod
    def of(cls, targets: Iterable[TargetSpec], tunnels: Iterable[TunnelSpec]) -> Self:
        return cls(
            MappingProxyType({target.name: target for target in targets}),
            MappingProxyType({tunnel.id: tunnel for tunnel in tunnels}),
        )

    def sharing(self, previous: Desired) -> Desired:
        """The same value, built of `previous`'s objects where they are equal.

        An unchanged tunnel is then the *identical* object from edit to edit, and a pass over ten thousand of them
        compares pointers.
        """
        return Desired.of(
            (_shared(new, previous.targets.get(new.name)) for new in self.targets.values()),
            (_shared(new, previous.tunnels.get(new.id)) for new in self.tunnels.values()),
        )

    def restarted(self, generations: Mapping[str, int]) -> Desired:
        """With each target's access at its generation; targets not named are left at 0."""
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
