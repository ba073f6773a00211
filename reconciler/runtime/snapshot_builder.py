"""Builds a snapshot, or the detail of one tunnel, from the engine, the changes and the configuration store.

Input: the parts of the running process. Output: `report.snapshot.Snapshot` and `report.tunnel_detail.TunnelDetail`,
which share no mutable state with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from reconciler import __version__
from reconciler.config.load import Loaded
from reconciler.core.observed import Now, Observed, Reason
from reconciler.core.spec import Endpoint, Listen, LocalTcp, LocalUnix, RemoteTcp, RemoteUnix
from reconciler.core.status import Status, TargetStatus, TunnelStatus, Verdict
from reconciler.core.subject import Subject
from reconciler.report.changes import ChangeTracker
from reconciler.report.history import Histories
from reconciler.report.snapshot import (
    Condition,
    ConfigSnapshot,
    FileSnapshot,
    Liveness,
    Snapshot,
    TargetSnapshot,
    TunnelSnapshot,
)
from reconciler.report.tunnel_detail import CLIENTS_MAX, ClientSnapshot, TunnelDetail
from reconciler.runtime.config_store import ConfigStore
from reconciler.runtime.engine import Engine
from reconciler.runtime.instance import instance_name
from reconciler.ssh.connect.negotiated import cipher, kex


@dataclass(frozen=True, slots=True)
class SnapshotBuilder:
    """Copies everything that the reports need out of the parts of the running process."""

    engine: Engine
    config_store: ConfigStore
    change_tracker: ChangeTracker
    histories: Histories

    def take(self, liveness: Liveness, *, watching: bool) -> Snapshot:
        """Return a snapshot of now, with the status of the last pass."""
        engine = self.engine
        now, status, observed = engine.loop.now(), engine.status or Status((), ()), engine.observed
        return Snapshot(
            at=now.wall,
            version=__version__,
            instance=instance_name(engine.environ),
            config=self._config(self.config_store.latest, settled=engine.settled, watching=watching),
            targets=tuple(self._target(target, now) for target in status.targets),
            tunnels=(
                *(self._tunnel(tunnel, observed, now) for tunnel in status.tunnels),
                *(replace(self._tunnel(tunnel, observed, now), leaving=True) for tunnel in status.leaving),
            ),
            reconciles=engine.loop.passes.frozen(),
            liveness=liveness,
            shard=engine.shard,
        )

    def detail(self, tunnel_id: str) -> TunnelDetail | None:
        """Return the detail of a tunnel, None if there is no such tunnel."""
        history = self.histories.get(tunnel_id, self.engine.loop.now().wall)
        if history is None:
            return None
        loaded = self.config_store.latest
        place = loaded.places.get(tunnel_id) if loaded is not None else None
        own = [one for one in self.engine.actuator.connections() if one.tunnel.id == tunnel_id]
        return TunnelDetail(
            id=tunnel_id,
            file=place.file if place is not None else "",
            line=place.line if place is not None else 0,
            history=history,
            clients=tuple(
                ClientSnapshot(one.origin, one.since, one.sent, one.received, held=one.link is None)
                for one in own[: -CLIENTS_MAX - 1 : -1]
            ),
        )

    def _config(self, loaded: Loaded | None, *, settled: bool, watching: bool) -> ConfigSnapshot:
        store = self.config_store
        files = (*loaded.files, *([loaded.policy] if loaded.policy else [])) if loaded else ()
        return ConfigSnapshot(
            files=tuple(FileSnapshot(f.path, f.valid, f.error) for f in files),
            revision=loaded.revision if loaded else "",
            rejected=loaded.rejected if loaded else "",
            errors=tuple(map(str, loaded.errors)) if loaded else (),
            loaded_at=store.loaded_at,
            succeeded_at=store.succeeded_at,
            reloads=store.reloads,
            failed=store.failed,
            converged=settled,
            watching=watching,
        )

    def _target(self, target: TargetStatus, now: Now) -> TargetSnapshot:
        record = self.engine.actuator.records.target(target.name)
        desired = self.engine.desired.targets.get(target.name)
        # The settings of an unusable target contain placeholders.
        is_usable = self.config_store.latest is None or target.name not in self.config_store.latest.broken
        access = desired.access if desired is not None and is_usable else None
        live = self.engine.actuator.links
        link = next((live[number] for number in target.links if number in live), None)
        return TargetSnapshot(
            name=target.name,
            condition=self._condition(Subject("target", target.name), target.verdict, now, record.failures),
            hosts=tuple(map(str, access.hop.hosts)) if access else (),
            via=tuple(str(hop.hosts[0]) for hop in access.via) if access else (),
            host=target.host,
            cipher=cipher(link.connection) if link else "",
            kex=kex(link.connection) if link else "",
            rtt=link.rtt() if link else None,
            host_key_verified=link.dialled.host_key_verified if link else None,
            certificate_expires=record.certificate_expires,
            connects=record.connects.frozen(),
            dials=record.dials.frozen(),
            probes=record.probes.frozen(),
        )

    def _tunnel(self, tunnel: TunnelStatus, observed: Observed, now: Now) -> TunnelSnapshot:
        clients = self.engine.actuator.records.tunnel(tunnel.id).clients
        spec, policy = tunnel.spec, tunnel.spec.policy
        probed = observed.probes.get(tunnel.id) if policy.health else None
        return TunnelSnapshot(
            id=tunnel.id,
            target=spec.target,
            name=spec.name,
            kind=spec.kind,
            condition=self._condition(
                Subject("tunnel", tunnel.id),
                tunnel.verdict,
                now,
                self.engine.actuator.records.tunnel(tunnel.id).failures,
            ),
            listen=listen_address(tunnel),
            configured=str(spec.listen),
            dial=str(spec.route),
            connections=clients.active,
            held=clients.held,
            sent=clients.sent,
            received=clients.received,
            results=MappingProxyType(dict(clients.results)),
            description=policy.description,
            labels=policy.labels,
            critical=policy.critical,
            expires_at=policy.expires_at,
            probe=probed.failure is None if probed is not None else None,
            client_failure=clients.last_failure,
        )

    def _condition(self, subject: Subject, verdict: Verdict, now: Now, failures: dict[Reason, int]) -> Condition:
        due = verdict.next_try
        return Condition(
            phase=verdict.phase,
            reason=verdict.reason,
            message=verdict.message,
            needs_action=verdict.needs_action,
            next_try_at=now.wall + due.at - now.mono if due is not None else None,
            next_try_wait=due.wait if due is not None else None,
            since=self.change_tracker.since(subject),
            reconnects=self.change_tracker.reconnects(subject),
            failures=MappingProxyType(dict(failures)),
            off=verdict.off.cause if verdict.off is not None else None,
        )


def listen_address(tunnel: TunnelStatus) -> str:
    """Return the listen address for machines: the same form whether it is bound or not."""
    configured = tunnel.spec.listen
    return tunnel.bound if tunnel.bound != str(configured) else _address(configured)


def _address(listen: Listen) -> str:
    """Return `host:port` (port 0: not assigned yet) or a path, without the explanations of `str(listen)`."""
    match listen:
        case LocalUnix() | RemoteUnix():
            return listen.path
        case RemoteTcp():
            return str(Endpoint(listen.host, listen.port))
        case LocalTcp() if listen.first == listen.last:
            return str(Endpoint(listen.host, listen.first))
        case LocalTcp():
            return f"{Endpoint(listen.host, listen.first)}-{listen.last}"
