"""Everything that can be told about the running process at one moment, as one immutable value.

In: plain values, copied by whoever asks (snapshots.py). Out: the JSON of `/api/v1/status` (DESIGN section 7). The
metrics, `/readyz`, the status page and `wait` all read the same snapshot, so that they cannot disagree. Times are
Unix time, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.core.histogram import Distribution
from reconciler.core.observed import Phase, Reason

# Phases in which nobody expects it to be up; and those in which its being down is no trouble.
NOT_ASKED = frozenset({Phase.OFF, Phase.STANDBY})
_NO_TROUBLE = NOT_ASKED | {Phase.UP, Phase.DRAINING}


@dataclass(frozen=True, slots=True)
class FileSnapshot:
    """One configuration file. `error` "" if it is valid."""

    path: str
    valid: bool
    error: str


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """What is asked for.

    revision          of the content that is applied, "" for none
    rejected          of the content that was read last, if that is not what is applied
    errors            what was wrong at the last load
    loaded_at         when the applied revision was loaded
    succeeded_at      when a load last found nothing wrong
    reloads, failed   how many loads found nothing wrong, and how many did
    converged         there is nothing left to do but to wait or to try again
    watching          changes of the files are noticed at once
    """

    files: tuple[FileSnapshot, ...]
    revision: str
    rejected: str
    errors: tuple[str, ...]
    loaded_at: float | None
    succeeded_at: float | None
    reloads: int
    failed: int
    converged: bool
    watching: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """What a target or tunnel is, and why."""

    phase: Phase
    reason: Reason | None
    message: str
    needs_action: bool
    next_try_at: float | None
    since: float
    reconnects: int
    failures: Mapping[Reason, int]


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    """An SSH server: `hosts` as asked for, `via` the first host of each jump host, outermost first.

    `host`, `cipher`, `kex` are "" and the others None where there is no connection to ask.
    """

    name: str
    condition: Condition
    hosts: tuple[str, ...]
    via: tuple[str, ...]
    host: str
    cipher: str
    kex: str
    rtt: float | None
    host_key_verified: bool | None
    certificate_expires: float | None
    connects: Distribution
    dials: Distribution
    probes: Distribution


@dataclass(frozen=True, slots=True)
class TunnelSnapshot:
    """A tunnel. `listen` is where it listens, or is to, as host:port or a path; `asked` what the file says, in words;
    `probe` None where none has answered.
    """

    id: str
    target: str
    name: str
    kind: str
    condition: Condition
    listen: str
    asked: str
    dial: str
    connections: int
    held: int
    sent: int
    received: int
    results: Mapping[str, int]
    description: str
    labels: tuple[tuple[str, str], ...]
    critical: bool
    expires_at: float | None
    probe: bool | None
    leaving: bool = False  # nobody asks for it any more: its last clients are still there


@dataclass(frozen=True, slots=True)
class Pulse:
    """Signs of life. `passed` is how long ago the reconcile loop last looked, None before the first time; `lag` is by
    how much the event loop was late at worst of late, `again` the worst but for that one; `ending`: it was told to end;
    `fault` says that the loop's passes fail, "" if they do not.
    """

    passed: float | None
    lag: float
    again: float
    ending: bool
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the module."""

    at: float
    version: str
    config: ConfigSnapshot
    targets: tuple[TargetSnapshot, ...]
    tunnels: tuple[TunnelSnapshot, ...]
    reconciles: Distribution
    pulse: Pulse

    def troubles(self, *, critical: bool) -> list[TunnelSnapshot]:
        """The tunnels that should be up and are not; only the critical ones if asked so."""
        return [
            tunnel
            for tunnel in self.tunnels
            if (tunnel.critical or not critical) and tunnel.condition.phase not in _NO_TROUBLE
        ]


def iso(wall: float | None) -> str | None:
    """Unix time as people and machines read it, in UTC."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sentence(name: str, condition: Condition) -> str:
    """One line for people: `prod/pg is down (refused): …`."""
    reason = f" ({condition.reason})" if condition.reason is not None else ""
    message = f": {condition.message}" if condition.message else ""
    return f"{name} is {condition.phase}{reason}{message}"


# --- JSON -------------------------------------------------------------------------------------------------------

Json = dict[str, object]


def to_json(snapshot: Snapshot) -> Json:
    """The form of DESIGN section 7, and for the page: a target's hosts and jump hosts, a tunnel's expiry.

    `ending` is there only when it is true: its tunnels are gone then, or leaving. So is `fault`, a sentence: what is
    told about the targets and tunnels is then as old as the last pass of the reconcile loop that did not fail.
    """
    config = snapshot.config
    return {
        **({"ending": True} if snapshot.pulse.ending else {}),
        **({"fault": snapshot.pulse.fault} if snapshot.pulse.fault else {}),
        "config": {
            "files": [{"path": f.path, "valid": f.valid, "error": f.error or None} for f in config.files],
            "revision": config.revision or None,
            "loadedAt": iso(config.loaded_at),
            "converged": config.converged,
        },
        "targets": [_target(target) for target in snapshot.targets],
        "tunnels": [_tunnel(tunnel) for tunnel in snapshot.tunnels],
    }


def _target(target: TargetSnapshot) -> Json:
    return {
        "name": target.name,
        **_condition(target.condition),
        "host": target.host or None,
        "hosts": list(target.hosts),
        "via": list(target.via),
        "cipher": target.cipher or None,
        "kex": target.kex or None,
        "rttSeconds": target.rtt,
        "hostKeyVerified": target.host_key_verified,
    }


def _tunnel(tunnel: TunnelSnapshot) -> Json:
    return {
        "id": tunnel.id,
        "target": tunnel.target,
        "name": tunnel.name,
        "type": tunnel.kind,
        **_condition(tunnel.condition),
        "up": tunnel.condition.phase is Phase.UP,
        "listen": tunnel.listen,
        "dial": tunnel.dial,
        "connections": tunnel.connections,
        "held": tunnel.held,
        "bytesSent": tunnel.sent,
        "bytesReceived": tunnel.received,
        "expiresAt": iso(tunnel.expires_at),
        "description": tunnel.description,
        "labels": dict(tunnel.labels),
    }


def _condition(condition: Condition) -> Json:
    return {
        "phase": condition.phase.value,
        "reason": condition.reason.value if condition.reason is not None else None,
        "message": condition.message or None,
        "needsAction": condition.needs_action,
        "nextTryAt": iso(condition.next_try_at),
        "since": iso(condition.since),
        "reconnects": condition.reconnects,
    }
