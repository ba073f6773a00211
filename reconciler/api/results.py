"""What the calls of the Python API return: frozen values, with the values of variables replaced by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.config.load import Loaded
from reconciler.config.problem import ConfigError, Problem
from reconciler.core.observed import Phase, Reason
from reconciler.core.plan import is_wanted
from reconciler.core.spec import Desired, LocalUnix, RemoteUnix, TunnelSpec
from reconciler.core.status import TunnelStatus
from reconciler.core.text.forms import phase_text
from reconciler.runtime.changed_fields import target_changes, tunnel_changes
from reconciler.runtime.plan_report import PlanReport
from reconciler.runtime.snapshot_builder import listen_address
from reconciler.system.redaction import redact


@dataclass(frozen=True, slots=True)
class TunnelState:
    """One tunnel at one moment. `str()` returns its id, phase, reason and message."""

    id: str
    """`target/name`."""
    target: str
    """The name of the target."""
    name: str
    """The name in the target."""
    type: str
    """`local`, `remote` or `socks`."""
    phase: Phase
    """The phase, a `str`: `Phase.UP == "up"`."""
    reason: Reason | None
    """Why it is not up, or why its connection cannot be replaced; None if nothing fails."""
    message: str
    """What happened and what to do about it, "" if there is nothing to say."""
    needs_action: bool
    """True if no retry helps until a person changes something."""
    address: str
    """The address that it listens on: `host:port` or a path. The port is 0 if none is assigned yet."""
    port: int | None
    """The port that it listens on, configured or assigned; None for a unix socket and while none is assigned."""
    is_unix: bool
    """True if it listens on a unix socket."""
    destination: str
    """Where it leads: `host:port` or a path."""

    @classmethod
    def of(cls, status: TunnelStatus) -> TunnelState:
        """Return the state for a status of the engine."""
        spec, verdict, address = status.spec, status.verdict, listen_address(status)
        is_unix = isinstance(spec.listen, LocalUnix | RemoteUnix)
        return cls(
            id=status.id,
            target=spec.target,
            name=spec.name,
            type=spec.kind,
            phase=verdict.phase,
            reason=verdict.reason,
            message=redact(verdict.message),
            needs_action=verdict.needs_action,
            address=address,
            port=None if is_unix else _port(address),
            is_unix=is_unix,
            destination=redact(str(spec.route)),
        )

    @property
    def is_up(self) -> bool:
        """Return True if clients can use it: its listener is bound, its link is up, and no probe fails."""
        return self.phase is Phase.UP

    def __str__(self) -> str:
        return f"{self.id}: {phase_text(self.phase, self.reason, self.message)}"


def _port(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) or None if port.isdecimal() else None


@dataclass(frozen=True, slots=True)
class ChangedFields:
    """A target or tunnel that an edit changed, and what changed in it."""

    id: str
    """`target/name` of a tunnel, or the name of a target."""
    fields: tuple[str, ...]
    """Each changed field as text, with the names and values of the file: `holdTimeout 10s -> 30s`."""
    renamed_from: str = ""
    """The id that the tunnel had before, "" if it is the same. A renamed tunnel keeps its listener and clients."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did. If `rejected` is not empty, nothing was changed."""

    opened: tuple[str, ...] = ()
    """The ids of tunnels that are open now and were not before: new ones, and those that were off."""
    closed: tuple[str, ...] = ()
    """The ids of tunnels that were open before: removed ones, and those that are off now. Their clients drain."""
    changed: tuple[ChangedFields, ...] = ()
    """The targets and tunnels that stay and have other fields."""
    rejected: tuple[Problem, ...] = ()
    """The errors of the configuration. Each has a file, line, column, path and message."""
    clients: int = 0
    """How many live clients the edit drains, cuts or moves to another link."""
    revision: str = ""
    """The revision of the configuration in use, as `tunnels check --output json` prints it; "" if it was rejected."""
    converged: bool = False
    """False if something was still in progress after `within` seconds, such as a connection to a silent server."""

    @property
    def affected(self) -> tuple[str, ...]:
        """The ids of all targets and tunnels that were opened, closed or changed."""
        return (*self.opened, *self.closed, *(one.id for one in self.changed))

    def raise_if_rejected(self) -> None:
        """Raise ConfigError if the configuration was rejected.

        :raises ConfigError: with the problems of `rejected`.
        """
        if self.rejected:
            raise ConfigError(*self.rejected)


def compare(before: Desired, after: Desired, report: PlanReport, loaded: Loaded, wall: float) -> Applied:
    """Return what an edit does, except whether it has converged. `report`: the plan of the edit."""
    old, new = _wanted(before, wall), _wanted(after, wall)
    renamed = {
        step.subject.name: step.previous
        for step in report.steps
        if step.previous in old and step.previous not in new and step.subject.name not in old
    }
    changed = [
        ChangedFields(name, fields)
        for name in dict.fromkeys(tunnel.target for tunnel in new.values())
        if name in before.targets and (fields := target_changes(before.targets[name], after.targets[name]))
    ]
    for name, tunnel in new.items():
        previous = renamed.get(name, name)
        if previous in old and (old[previous] != tunnel):
            changed.append(ChangedFields(name, tunnel_changes(old[previous], tunnel), renamed.get(name, "")))
    return Applied(
        opened=tuple(name for name in new if name not in old and name not in renamed),
        closed=tuple(name for name in old if name not in new and name not in renamed.values()),
        changed=tuple(changed),
        clients=report.clients,
        revision=loaded.revision,
    )


def _wanted(desired: Desired, wall: float) -> Mapping[str, TunnelSpec]:
    return {name: tunnel for name, tunnel in desired.tunnels.items() if is_wanted(tunnel, desired, wall)}
