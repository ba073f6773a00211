"""Takes the snapshot: copies what the reports tell out of the judgement, the fleet, the journal and the files.

In: the parts of the running process. Out: `report.Snapshot`, which shares nothing with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from reconciler import __version__
from reconciler.config.load import Loaded
from reconciler.core.observed import Now, Observed, Reason
from reconciler.core.spec import Endpoint, Listen, LocalTcp, LocalUnix, RemoteTcp, RemoteUnix
from reconciler.core.status import Status, TargetStatus, TunnelStatus, Verdict
from reconciler.report.changes import ChangeTracker
from reconciler.report.snapshot import (
    Condition,
    ConfigSnapshot,
    FileSnapshot,
    Pulse,
    Snapshot,
    TargetSnapshot,
    TunnelSnapshot,
)
from reconciler.runtime.config_store import ConfigStore
from reconciler.runtime.loop import Loop
from reconciler.ssh.actuator import SshActuator
from reconciler.ssh.connect.negotiated import cipher, kex
from reconciler.ssh.relay.relay import Meter

_NO_METER = Meter()


@dataclass(frozen=True, slots=True)
class SnapshotBuilder:
    """Looks at the running process."""

    loop: Loop
    actuator: SshActuator
    loads: ConfigStore
    journal: ChangeTracker

    def take(self, judgement: Status, observed: Observed, pulse: Pulse, *, settled: bool, watching: bool) -> Snapshot:
        """The snapshot of now, with the judgement of the last pass."""
        now = self.loop.now()
        return Snapshot(
            at=now.wall,
            version=__version__,
            config=self._config(self.loads.latest, settled=settled, watching=watching),
            targets=tuple(self._target(target, now) for target in judgement.targets),
            tunnels=(
                *(self._tunnel(tunnel, observed, now) for tunnel in judgement.tunnels),
                *(replace(self._tunnel(tunnel, observed, now), leaving=True) for tunnel in judgement.leaving),
            ),
            reconciles=self.loop.passes.frozen(),
            pulse=pulse,
        )

    def _config(self, loaded: Loaded | None, *, settled: bool, watching: bool) -> ConfigSnapshot:
        loads = self.loads
        return ConfigSnapshot(
            files=tuple(FileSnapshot(f.path, f.valid, f.error) for f in loaded.files) if loaded else (),
            revision=loaded.revision if loaded else "",
            rejected=loaded.rejected if loaded else "",
            errors=tuple(map(str, loaded.errors)) if loaded else (),
            loaded_at=loads.loaded_at,
            succeeded_at=loads.succeeded_at,
            reloads=loads.reloads,
            failed=loads.failed,
            converged=settled,
            watching=watching,
        )

    def _target(self, target: TargetStatus, now: Now) -> TargetSnapshot:
        counters = self.actuator.counters.target(target.name)
        asked = self.loop.desired.targets.get(target.name)
        is_known = self.loads.latest is None or target.name not in self.loads.latest.broken  # else it has stand-ins
        access = asked.access if asked is not None and is_known else None
        live = self.actuator.links
        link = next((live[number] for number in target.links if number in live), None)
        return TargetSnapshot(
            name=target.name,
            condition=self._condition(f"target {target.name}", target.verdict, now, counters.failures),
            hosts=tuple(map(str, access.hop.hosts)) if access else (),
            via=tuple(str(hop.hosts[0]) for hop in access.via) if access else (),
            host=target.host,
            cipher=cipher(link.connection) if link else "",
            kex=kex(link.connection) if link else "",
            rtt=link.rtt() if link else None,
            host_key_verified=link.dialled.host_key_verified if link else None,
            certificate_expires=counters.certificate_expires,
            connects=counters.connects.frozen(),
            dials=counters.dials.frozen(),
            probes=counters.probes.frozen(),
        )

    def _tunnel(self, tunnel: TunnelStatus, observed: Observed, now: Now) -> TunnelSnapshot:
        meter = self.actuator.meters.get(tunnel.id, _NO_METER)
        spec, policy = tunnel.spec, tunnel.spec.policy
        probed = observed.probes.get(tunnel.id) if policy.health else None
        return TunnelSnapshot(
            id=tunnel.id,
            target=spec.target,
            name=spec.name,
            kind=spec.kind,
            condition=self._condition(
                f"tunnel {tunnel.id}", tunnel.verdict, now, self.actuator.counters.failures(tunnel.id)
            ),
            listen=_listen(tunnel),
            asked=str(spec.listen),
            dial=str(spec.route),
            connections=meter.active,
            held=meter.held,
            sent=meter.sent,
            received=meter.received,
            results=MappingProxyType(dict(meter.results)),
            description=policy.description,
            labels=policy.labels,
            critical=policy.critical,
            expires_at=policy.expires_at,
            probe=probed.failure is None if probed is not None else None,
        )

    def _condition(self, subject: str, verdict: Verdict, now: Now, failures: dict[Reason, int]) -> Condition:
        due = verdict.next_try
        return Condition(
            phase=verdict.phase,
            reason=verdict.reason,
            message=verdict.message,
            needs_action=verdict.needs_action,
            next_try_at=now.wall + due - now.mono if due is not None else None,
            since=self.journal.since(subject),
            reconnects=self.journal.reconnects(subject),
            failures=MappingProxyType(dict(failures)),
        )


def _listen(tunnel: TunnelStatus) -> str:
    """For machines: the same form whether it is bound or not."""
    asked = tunnel.spec.listen
    return tunnel.bound if tunnel.bound != str(asked) else _address(asked)


def _address(listen: Listen) -> str:
    """`host:port` (0: none is chosen yet) or a path. What people read has more: on which server, and what 0 means."""
    match listen:
        case LocalUnix() | RemoteUnix():
            return listen.path
        case RemoteTcp():
            return str(Endpoint(listen.host, listen.port))
        case LocalTcp() if listen.first == listen.last:
            return str(Endpoint(listen.host, listen.first))
        case LocalTcp():
            return f"{Endpoint(listen.host, listen.first)}-{listen.last}"
