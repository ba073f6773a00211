"""The snapshot: everything that is reported about the running process at one moment, as one immutable value.

Input: plain values, copied by `runtime/snapshot_builder.py`. Output: the JSON of `/api/v1/status` (docs/contract.md).
The metrics, `/readyz` and the status page read the same snapshot, so that they cannot disagree. Times are Unix time,
durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.core.backoff import Wait
from reconciler.core.histogram import Distribution
from reconciler.core.observed import ClientFailure, ClientResult, Phase, Reason
from reconciler.core.off import OffCause
from reconciler.core.shard import Shard
from reconciler.core.text.forms import phase_text

# Phases in which a tunnel is not expected to be up; and all phases that are no failure.
NOT_EXPECTED_UP = frozenset({Phase.OFF, Phase.STANDBY})
_NO_FAILURE = NOT_EXPECTED_UP | {Phase.UP, Phase.DRAINING}


@dataclass(frozen=True, slots=True)
class FileSnapshot:
    """One configuration file. `error` is "" if it is valid."""

    path: str
    valid: bool
    error: str


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """The configuration and its loads.

    revision          the applied revision, "" for none
    rejected          the revision that was read last, if it is not applied
    errors            the errors of the last load
    loaded_at         when the applied revision was loaded
    succeeded_at      when the last load without an error ended
    reloads, failed   how many loads succeeded, how many failed
    converged         no action is left, except to wait or to retry
    watching          file changes are noticed immediately
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
    """The phase of a target or tunnel, and why.

    next_try_at, next_try_wait   when the next try is due, and what sets that time; None if none is due
    off                          what keeps it off, None if nothing does
    """

    phase: Phase
    reason: Reason | None
    message: str
    needs_action: bool
    next_try_at: float | None
    next_try_wait: Wait | None
    since: float
    reconnects: int
    failures: Mapping[Reason, int]
    off: OffCause | None


@dataclass(frozen=True, slots=True)
class TargetSnapshot:
    """A target. `hosts`: as configured. `via`: the first address of each jump host, outermost first.

    Without a link, `host`, `cipher` and `kex` are "", and `rtt` and `host_key_verified` are None.
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
    """A tunnel.

    listen           the bound or configured address, as host:port or a path
    configured       the address as in the file
    probe            the result of the last health probe, None before the first
    leaving          it was removed and still has clients
    client_failure   the last client that got no connection, None for none
    """

    id: str
    target: str
    name: str
    kind: str
    condition: Condition
    listen: str
    configured: str
    dial: str
    connections: int
    held: int
    sent: int
    received: int
    results: Mapping[ClientResult, int]
    description: str
    labels: tuple[tuple[str, str], ...]
    critical: bool
    expires_at: float | None
    probe: bool | None
    leaving: bool = False
    client_failure: ClientFailure | None = None


@dataclass(frozen=True, slots=True)
class Liveness:
    """The measurements of the process for `/livez` and `/readyz`.

    last_pass_age    seconds since the last pass of the reconcile loop, None before the first
    max_lag          the largest recent lag of the event loop, in seconds
    second_max_lag   the second largest: a single large lag means that the process was stopped for a while
    ending           shutdown was requested
    fault            says that the passes fail, "" if they do not
    """

    last_pass_age: float | None
    max_lag: float
    second_max_lag: float
    ending: bool
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The targets, the tunnels, the configuration and the process at the time `at`.

    version    of the program
    instance   the name of the pod or machine
    shard      None for all targets
    """

    at: float
    version: str
    instance: str
    config: ConfigSnapshot
    targets: tuple[TargetSnapshot, ...]
    tunnels: tuple[TunnelSnapshot, ...]
    reconciles: Distribution
    liveness: Liveness
    shard: Shard | None = None

    def troubles(self, *, critical: bool) -> list[TunnelSnapshot]:
        """Return the tunnels that should be up and are not. `critical`: only the critical ones."""
        return [
            tunnel
            for tunnel in self.tunnels
            if (tunnel.critical or not critical) and tunnel.condition.phase not in _NO_FAILURE
        ]


def iso(wall: float | None) -> str | None:
    """Format Unix time as RFC 3339 in UTC."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sentence(name: str, condition: Condition) -> str:
    """Return one line of text: `prod/pg is down (refused): …`."""
    return f"{name} is {phase_text(condition.phase, condition.reason, condition.message)}"


# --- JSON -------------------------------------------------------------------------------------------------------

Json = dict[str, object]


def to_json(snapshot: Snapshot) -> Json:
    """Return the JSON that docs/contract.md describes.

    `ending` is present only if true: then the tunnels are closed or draining. `fault`, a sentence, is present only if
    passes of the reconcile loop fail: then the status of targets and tunnels is that of the last successful pass.
    `shard` is present only with `--shard`.
    """
    config = snapshot.config
    return {
        "version": snapshot.version,
        "instance": snapshot.instance,
        **({"ending": True} if snapshot.liveness.ending else {}),
        **({"fault": snapshot.liveness.fault} if snapshot.liveness.fault else {}),
        **({"shard": str(snapshot.shard)} if snapshot.shard is not None else {}),
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
        "lastClientFailure": _client_failure(tunnel.client_failure),
    }


def _client_failure(failure: ClientFailure | None) -> Json | None:
    if failure is None:
        return None
    return {
        "at": iso(failure.at),
        "from": failure.origin or None,
        "result": failure.result.value,
        "message": failure.why,
    }


def _condition(condition: Condition) -> Json:
    return {
        "phase": condition.phase.value,
        "reason": condition.reason.value if condition.reason is not None else None,
        "message": condition.message or None,
        **({"off": condition.off.value} if condition.off is not None else {}),
        "needsAction": condition.needs_action,
        "nextTryAt": iso(condition.next_try_at),
        "nextTryWait": condition.next_try_wait.value if condition.next_try_wait is not None else None,
        "since": iso(condition.since),
        "reconnects": condition.reconnects,
    }
