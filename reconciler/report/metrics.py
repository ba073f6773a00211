"""Writes the metrics of docs/contract.md from a snapshot.

Input: a snapshot, and the Accept header of the scraper. Output: our metrics, then those of prometheus_client for the
process and for Python. Label values come from the files, never from clients. The series of a tunnel start at 0 when
the tunnel is added, and end when a removed tunnel loses its last client.
"""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, exposition
from prometheus_client.openmetrics import exposition as openmetrics_exposition

from reconciler.core.observed import ClientResult, Phase
from reconciler.report.exposition import OPENMETRICS, Page, Sample, content_type, labels
from reconciler.report.snapshot import NOT_EXPECTED_UP, Condition, Snapshot, TargetSnapshot, TunnelSnapshot
from reconciler.system.redaction import redact

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
_Labelled = Sequence[tuple[str, TunnelSnapshot]]
_Targets = Sequence[tuple[str, TargetSnapshot]]


class Metrics:
    """The `/metrics` page. `shown`: names of the tunnel labels that `ssh_tunnel_info` carries."""

    def __init__(self, shown: Iterable[str] = ()) -> None:
        self._shown = {f"label_{_NOT_IN_A_NAME.sub('_', name)}": name for name in shown}
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._one_at_a_time = asyncio.Lock()

    async def render(self, snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type. A thread makes the page, so that the relays run meanwhile."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self.page, snapshot, accept)

    def page(self, snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
        chosen = content_type(accept)
        openmetrics = chosen == OPENMETRICS
        encode = openmetrics_exposition.generate_latest if openmetrics else exposition.generate_latest
        page = Page(openmetrics=openmetrics)
        tunnels = [
            (labels({"target": one.target, "tunnel": one.name, "type": one.kind}), one) for one in snapshot.tunnels
        ]
        targets = [(labels({"target": one.name}), one) for one in snapshot.targets]
        _tunnels(page, tunnels)
        self._info(page, tunnels)
        _targets(page, targets)
        _process(page, snapshot)
        return page.text().encode() + encode(self._process), chosen

    def _info(self, page: Page, tunnels: _Labelled) -> None:
        samples = []
        for text, one in tunnels:
            own = dict(one.labels)
            more = {
                "listen": redact(one.configured),
                "dial": redact(one.dial),
                "critical": "true" if one.critical else "false",
                **{label: redact(own.get(name, "")) for label, name in self._shown.items()},
            }
            samples.append((f"{text},{labels(more)}", 1))
        page.gauge("ssh_tunnel_info", "Settings of the tunnel, as in the file.", samples)


def _tunnels(page: Page, tunnels: _Labelled) -> None:
    expected = [(text, one) for text, one in tunnels if one.condition.phase not in NOT_EXPECTED_UP]
    page.gauge(
        "ssh_tunnel_up",
        "1 if the listener is bound, the SSH connection is up and no check fails; absent while off or standby.",
        [(text, int(one.condition.phase is Phase.UP)) for text, one in expected],
    )
    page.gauge(
        "ssh_tunnel_phase",
        "1 for the current phase of the tunnel.",
        [(f'{text},phase="{phase}"', int(one.condition.phase is phase)) for text, one in tunnels for phase in Phase],
    )
    page.gauge(
        "ssh_tunnel_active_connections",
        "Client connections with an open SSH channel.",
        [(text, one.connections) for text, one in tunnels],
    )
    page.gauge(
        "ssh_tunnel_held_connections",
        "Client connections that wait for the SSH connection.",
        [(text, one.held) for text, one in tunnels],
    )
    page.gauge(
        "ssh_tunnel_last_transition_timestamp_seconds",
        "Time at which the tunnel entered its phase.",
        [(text, one.condition.since) for text, one in tunnels],
    )
    page.gauge(
        "ssh_tunnel_expiry_timestamp_seconds",
        "Time at which expiresAt turns the tunnel off.",
        [(text, one.expires_at) for text, one in tunnels if one.expires_at is not None],
    )
    page.gauge(
        "ssh_tunnel_probe_success",
        "1 if the last health probe succeeded.",
        [(text, int(one.probe)) for text, one in tunnels if one.probe is not None],
    )
    page.counter(
        "ssh_tunnel_bytes_total",
        "Bytes of client connections: sent to the SSH server, received from it.",
        [
            sample
            for text, one in tunnels
            for sample in (
                (f'{text},direction="sent"', one.sent),
                (f'{text},direction="received"', one.received),
            )
        ],
    )
    page.counter(
        "ssh_tunnel_connections_total",
        "Client connections, by result.",
        [(f'{text},result="{result}"', one.results.get(result, 0)) for text, one in tunnels for result in ClientResult],
    )
    page.counter(
        "ssh_tunnel_failures_total",
        "Failures of the listener, destination or probe; failures of the SSH connection count for the target.",
        _failures((text, one.condition) for text, one in tunnels),
    )
    page.counter(
        "ssh_tunnel_reconnects_total",
        "Times that the tunnel came up again.",
        [(text, one.condition.reconnects) for text, one in tunnels],
    )


def _targets(page: Page, targets: _Targets) -> None:
    page.gauge(
        "ssh_target_up",
        "1 if the SSH connection is up; absent while off or standby.",
        [
            (text, int(one.condition.phase is Phase.UP))
            for text, one in targets
            if one.condition.phase not in NOT_EXPECTED_UP
        ],
    )
    page.gauge(
        "ssh_target_rtt_seconds",
        "Round trip time to the target, through its jump hosts; absent until it is known.",
        [(text, one.rtt) for text, one in targets if one.rtt is not None],
    )
    page.gauge(
        "ssh_target_host_key_verified",
        "1 if the host keys of all hops were verified.",
        [(text, int(one.host_key_verified)) for text, one in targets if one.host_key_verified is not None],
    )
    page.gauge(
        "ssh_target_certificate_expiry_timestamp_seconds",
        "Time at which the certificate of the last login expires.",
        [(text, one.certificate_expires) for text, one in targets if one.certificate_expires is not None],
    )
    page.counter(
        "ssh_target_reconnects_total",
        "Times that the target came up again.",
        [(text, one.condition.reconnects) for text, one in targets],
    )
    page.counter(
        "ssh_target_failures_total",
        "SSH connections that failed or were lost.",
        _failures((text, one.condition) for text, one in targets),
    )
    page.histogram(
        "ssh_target_connect_duration_seconds",
        "Time from the first packet to the completed login, all hops included.",
        [(text, one.connects) for text, one in targets],
    )
    page.histogram(
        "ssh_target_dial_duration_seconds",
        "Time until the destination of a client connection accepted or refused.",
        [(text, one.dials) for text, one in targets],
    )
    page.histogram(
        "ssh_target_probe_duration_seconds",
        "Duration of a health probe.",
        [(text, one.probes) for text, one in targets],
    )


def _process(page: Page, snapshot: Snapshot) -> None:
    config = snapshot.config
    page.gauge(
        "tunnels_config_last_reload_successful",
        "1 if the last load found no error.",
        [("", int(not config.errors))],
    )
    page.gauge(
        "tunnels_config_last_reload_success_timestamp_seconds",
        "Time of the last load without an error.",
        [("", config.succeeded_at or 0)],
    )
    page.gauge(
        "tunnels_config_file_valid",
        "1 if the present content of the file is valid and in use.",
        [(labels({"file": file.path}), int(file.valid)) for file in config.files],
    )
    page.gauge("tunnels_config_info", "The configuration in use.", [(labels({"revision": config.revision}), 1)])
    page.gauge(
        "tunnels_config_watch_active",
        "1 if file changes are noticed immediately, 0 if only at the next periodic read.",
        [("", int(config.watching))],
    )
    page.gauge(
        "tunnels_configured",
        "Number of configured tunnels.",
        [("", sum(not one.leaving for one in snapshot.tunnels))],
    )
    page.gauge(
        "tunnels_shards",
        "Number of shards, with the number of this one as label; absent without --shard.",
        [(labels({"shard": str(shard.index)}), shard.count)] if (shard := snapshot.shard) is not None else [],
    )
    build = {"version": snapshot.version, "python": platform.python_version()}
    page.gauge("tunnels_build_info", "Versions of the program and of Python.", [(labels(build), 1)])
    page.gauge(
        "tunnels_event_loop_lag_seconds",
        "Largest lag of the event loop in the last 15 s.",
        [("", snapshot.liveness.max_lag)],
    )
    page.counter(
        "tunnels_config_reloads_total",
        "Loads that changed something or were requested.",
        [('result="success"', config.reloads), ('result="failure"', config.failed)],
    )
    page.histogram(
        "tunnels_reconcile_duration_seconds", "Duration of a pass of the reconcile loop.", [("", snapshot.reconciles)]
    )


def _failures(conditions: Iterable[tuple[str, Condition]]) -> Iterator[Sample]:
    for text, condition in conditions:
        for reason, count in condition.failures.items():
            yield f'{text},reason="{reason}"', count
