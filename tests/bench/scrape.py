"""Time of a scrape: 1,000 tunnels of 50 targets, in both formats.

Run it with `make bench ARGS=scrape`. The goal is a median below 100 ms.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from types import MappingProxyType

from reconciler.core.histogram import Histogram
from reconciler.core.observed import Phase, Reason
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
from reconciler.ssh.counters import CONNECT_BOUNDS, DIAL_BOUNDS
from support.metrics import OPENMETRICS

TARGETS, TUNNELS, ROUNDS = 50, 1_000, 21
FORMATS = {"text": "text/plain;version=0.0.4", "OpenMetrics": OPENMETRICS}


def snapshot() -> Snapshot:
    failures = MappingProxyType(Counter({Reason.REFUSED: 3, Reason.TIMEOUT: 1}))
    up = Condition(Phase.UP, None, "", False, None, 1.8e9, 2, failures, None)
    config = ConfigSnapshot(
        (FileSnapshot("/etc/tunnels/tunnels.yaml", True, ""),), "sha256:0", "", (), 1.8e9, 1.8e9, 1, 0, True, True
    )
    connects, dials = Histogram(CONNECT_BOUNDS).frozen(), Histogram(DIAL_BOUNDS).frozen()
    return Snapshot(
        at=1.8e9,
        version="0",
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
        results=MappingProxyType({"ok": 12}),
        description="",
        labels=(("team", "data"),),
        critical=True,
        expires_at=None,
        probe=True,
    )


def main() -> None:
    metrics, value = Metrics(["team"]), snapshot()
    for name, accept in FORMATS.items():
        took, size = [], 0
        gc.collect()
        for _ in range(ROUNDS):
            began = time.perf_counter()
            page, _ = metrics.page(value, accept)
            took.append(time.perf_counter() - began)
            size = len(page)
        median, worst = statistics.median(took) * 1000, max(took) * 1000
        print(f"{TUNNELS} tunnels, {name}: median {median:.1f} ms, worst {worst:.1f} ms, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
