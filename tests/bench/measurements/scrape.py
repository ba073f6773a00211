"""Time of a scrape: 1,000 tunnels of 50 targets, in both formats."""

from __future__ import annotations

import gc
import time
from collections import Counter
from types import MappingProxyType

from bench.figures import OURS, Key
from bench.lab import Lab
from reconciler.core.histogram import Histogram
from reconciler.core.observed import ClientResult, Phase, Reason
from reconciler.report.metrics import Metrics
from reconciler.report.snapshot import (
    Condition,
    ConfigSnapshot,
    FileSnapshot,
    Liveness,
    Snapshot,
    TargetSnapshot,
    TunnelSnapshot,
)
from reconciler.ssh.records import CONNECT_BOUNDS, DIAL_BOUNDS
from support.metrics import OPENMETRICS

NAME = "scrape"
TARGETS, TUNNELS, ROUNDS = 50, 1_000, 11
FORMATS = {"text": "text/plain;version=0.0.4", "OpenMetrics": OPENMETRICS}


def snapshot() -> Snapshot:
    failures = MappingProxyType(Counter({Reason.REFUSED: 3, Reason.TIMEOUT: 1}))
    up = Condition(Phase.UP, None, "", False, None, None, 1.8e9, 2, failures, None)
    config = ConfigSnapshot(
        (FileSnapshot("/etc/tunnels/tunnels.yaml", True, ""),), "sha256:0", "", (), 1.8e9, 1.8e9, 1, 0, True, True
    )
    connects, dials = Histogram(CONNECT_BOUNDS).frozen(), Histogram(DIAL_BOUNDS).frozen()
    return Snapshot(
        at=1.8e9,
        version="0",
        instance="bench-0",
        config=config,
        targets=tuple(
            TargetSnapshot(f"t{n}", up, ("a:22",), (), "a:22", "aes", "x", 0.01, True, None, connects, dials, dials)
            for n in range(TARGETS)
        ),
        tunnels=tuple(_tunnel(n, up) for n in range(TUNNELS)),
        reconciles=dials,
        liveness=Liveness(1.0, 0.0, 0.0, False),
    )


def _tunnel(number: int, condition: Condition) -> TunnelSnapshot:
    target, port = f"t{number % TARGETS}", 10_000 + number
    return TunnelSnapshot(
        id=f"{target}/db-{number}",
        target=target,
        name=f"db-{number}",
        kind="local",
        condition=condition,
        listen=f"127.0.0.1:{port}",
        configured=f"127.0.0.1:{port}",
        dial="db.internal:5432",
        connections=3,
        held=0,
        sent=123_456_789,
        received=987_654_321,
        results=MappingProxyType({ClientResult.OK: 12}),
        description="",
        labels=(("team", "data"),),
        critical=True,
        expires_at=None,
        probe=True,
    )


async def measure(lab: Lab) -> None:
    metrics, value = Metrics(["team"]), snapshot()
    for name, accept in FORMATS.items():
        gc.collect()
        for _ in range(ROUNDS):
            began = time.perf_counter()
            metrics.page(value, accept)
            took = time.perf_counter() - began
            lab.record(Key(NAME, f"{TUNNELS:,} tunnels, {name}", "ms", OURS), took * 1000)
