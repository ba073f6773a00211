"""The metrics of DESIGN section 8, written from a snapshot.

In: a snapshot, and which format the scraper prefers. Out: the page: ours first, then what prometheus_client tells of
the process and of Python. Label values come from the files, never from clients. A series is there from the moment its
tunnel is asked for, at 0, until the tunnel's last client has gone.
"""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, exposition
from prometheus_client.openmetrics import exposition as openmetrics_exposition

from reconciler.core.observed import Phase
from reconciler.report.exposition import OPENMETRICS, Page, Sample, content_type, labels
from reconciler.report.snapshot import NOT_ASKED, Condition, Snapshot, TargetSnapshot, TunnelSnapshot
from reconciler.system.redaction import redact

RESULTS = ("ok", "denied", "limit", "hold_timeout", "dial_failed", "auth_failed")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
_Labelled = Sequence[tuple[str, TunnelSnapshot]]
_Targets = Sequence[tuple[str, TargetSnapshot]]


class Metrics:
    """See the module. `shown` are the tunnels' own labels that `ssh_tunnel_info` carries."""

    def __init__(self, shown: Iterable[str] = ()) -> None:
        self._shown = {f"label_{_NOT_IN_A_NAME.sub('_', name)}": name for name in shown}
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._one_at_a_time = asyncio.Lock()

    async def render(self, snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
        """The page and its content type. In a thread: clients' bytes go on meanwhile."""
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
                "listen": redact(one.asked),
                "dial": redact(one.dial),
                "critical": "true" if one.critical else "false",
                **{label: redact(own.get(name, "")) for label, name in self._shown.items()},
            }
            samples.append((f"{text},{labels(more)}", 1))
        page.gauge("ssh_tunnel_info", "What the file says about the tunnel.", samples)


def _tunnels(page: Page, tunnels: _Labelled) -> None:
    asked = [(text, one) for text, one in tunnels if one.condition.phase not in NOT_ASKED]
    page.gauge(
        "ssh_tunnel_up",
        "Whether its socket is bound, its SSH connection is up and nothing says unhealthy; none while off or standby.",
        [(text, int(one.condition.phase is Phase.UP)) for text, one in asked],
    )
    page.gauge(
        "ssh_tunnel_phase",
        "1 for the phase that the tunnel is in.",
        [(f'{text},phase="{phase}"', int(one.condition.phase is phase)) for text, one in tunnels for phase in Phase],
    )
    page.gauge(
        "ssh_tunnel_active_connections", "Clients with a channel.", [(text, one.connections) for text, one in tunnels]
    )
    page.gauge(
        "ssh_tunnel_held_connections",
        "Clients that wait for the SSH connection.",
        [(text, one.held) for text, one in tunnels],
    )
    page.gauge(
        "ssh_tunnel_last_transition_timestamp_seconds",
        "When the tunnel entered its phase.",
        [(text, one.condition.since) for text, one in tunnels],
    )
    page.gauge(
        "ssh_tunnel_expiry_timestamp_seconds",
        "When expiresAt turns it off.",
        [(text, one.expires_at) for text, one in tunnels if one.expires_at is not None],
    )
    page.gauge(
        "ssh_tunnel_probe_success",
        "Whether its last health probe went well.",
        [(text, int(one.probe)) for text, one in tunnels if one.probe is not None],
    )
    page.counter(
        "ssh_tunnel_bytes_total",
        "Bytes of its clients, as seen from here: sent towards the SSH server, received from it.",
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
        "Clients that came, by what became of them.",
        [(f'{text},result="{result}"', one.results.get(result, 0)) for text, one in tunnels for result in RESULTS],
    )
    page.counter(
        "ssh_tunnel_failures_total",
        "Failures of its own socket, destination or probe; those of its SSH connection are its target's.",
        _failures((text, one.condition) for text, one in tunnels),
    )
    page.counter(
        "ssh_tunnel_reconnects_total",
        "How often it came back after having been up.",
        [(text, one.condition.reconnects) for text, one in tunnels],
    )


def _targets(page: Page, targets: _Targets) -> None:
    page.gauge(
        "ssh_target_up",
        "Whether there is an SSH connection that answers; none while off or standby.",
        [(text, int(one.condition.phase is Phase.UP)) for text, one in targets if one.condition.phase not in NOT_ASKED],
    )
    page.gauge(
        "ssh_target_rtt_seconds",
        "Round trip time of the SSH connection's TCP connection.",
        [(text, one.rtt) for text, one in targets if one.rtt is not None],
    )
    page.gauge(
        "ssh_target_host_key_verified",
        "Whether the host keys of all its hops were checked.",
        [(text, int(one.host_key_verified)) for text, one in targets if one.host_key_verified is not None],
    )
    page.gauge(
        "ssh_target_certificate_expiry_timestamp_seconds",
        "When the certificate that logged in last expires.",
        [(text, one.certificate_expires) for text, one in targets if one.certificate_expires is not None],
    )
    page.counter(
        "ssh_target_reconnects_total",
        "How often it came back after having been up.",
        [(text, one.condition.reconnects) for text, one in targets],
    )
    page.counter(
        "ssh_target_failures_total",
        "Connections that could not be made, or were lost.",
        _failures((text, one.condition) for text, one in targets),
    )
    page.histogram(
        "ssh_target_connect_duration_seconds",
        "Time from the first packet to being logged in, all hops included.",
        [(text, one.connects) for text, one in targets],
    )
    page.histogram(
        "ssh_target_dial_duration_seconds",
        "Time until a client's destination answered, well or not.",
        [(text, one.dials) for text, one in targets],
    )
    page.histogram(
        "ssh_target_probe_duration_seconds", "Time a health probe took.", [(text, one.probes) for text, one in targets]
    )


def _process(page: Page, snapshot: Snapshot) -> None:
    config = snapshot.config
    page.gauge(
        "tunnels_config_last_reload_successful",
        "Whether the last load found nothing wrong.",
        [("", int(not config.errors))],
    )
    page.gauge(
        "tunnels_config_last_reload_success_timestamp_seconds",
        "When a load last found nothing wrong.",
        [("", config.succeeded_at or 0)],
    )
    page.gauge(
        "tunnels_config_file_valid",
        "Whether the file's present content is applied.",
        [(labels({"file": file.path}), int(file.valid)) for file in config.files],
    )
    page.gauge("tunnels_config_info", "Which content is applied.", [(labels({"revision": config.revision}), 1)])
    page.gauge(
        "tunnels_config_watch_active",
        "Whether changes of the files are noticed at once, or only when they are read again.",
        [("", int(config.watching))],
    )
    page.gauge(
        "tunnels_configured",
        "How many tunnels are asked for.",
        [("", sum(not one.leaving for one in snapshot.tunnels))],
    )
    build = {"version": snapshot.version, "python": platform.python_version()}
    page.gauge("tunnels_build_info", "Which program this is.", [(labels(build), 1)])
    page.gauge(
        "tunnels_event_loop_lag_seconds",
        "By how much the event loop was late, at worst in the last 15 s.",
        [("", snapshot.pulse.lag)],
    )
    page.counter(
        "tunnels_config_reloads_total",
        "Loads that changed something or were asked for.",
        [('result="success"', config.reloads), ('result="failure"', config.failed)],
    )
    page.histogram(
        "tunnels_reconcile_duration_seconds", "Time a pass of the reconcile loop took.", [("", snapshot.reconciles)]
    )


def _failures(conditions: Iterable[tuple[str, Condition]]) -> Iterator[Sample]:
    for text, condition in conditions:
        for reason, count in condition.failures.items():
            yield f'{text},reason="{reason}"', count
