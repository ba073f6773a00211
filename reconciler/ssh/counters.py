"""Counters for the metrics: failures by reason, and histograms of durations.

Owns the counters, which outlive links, sockets and probes: each lasts as long as its target or tunnel is desired.
Input: one call for each event, from the code where it happens. Output: the live counters, for the snapshot to copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from reconciler.core.histogram import Histogram
from reconciler.core.observed import Reason

# Seconds. A login takes 50 ms on loopback and seconds over a satellite; a channel takes a round trip and a connect.
CONNECT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
DIAL_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(slots=True)
class TargetCounters:
    """The counters of one target.

    certificate_expires   of the certificate that logged in last (Unix time)
    """

    failures: Counter[Reason] = field(default_factory=Counter)
    connects: Histogram = field(default_factory=lambda: Histogram(CONNECT_BOUNDS))
    dials: Histogram = field(default_factory=lambda: Histogram(DIAL_BOUNDS))
    probes: Histogram = field(default_factory=lambda: Histogram(DIAL_BOUNDS))
    certificate_expires: float | None = None


class Counters:
    """The counters of all targets and tunnels, created on first use."""

    def __init__(self) -> None:
        self._targets: dict[str, TargetCounters] = {}
        self._failures: dict[str, Counter[Reason]] = {}

    def target(self, name: str) -> TargetCounters:
        return self._targets.setdefault(name, TargetCounters())

    def failures(self, tunnel: str) -> Counter[Reason]:
        """Return the failures of a tunnel's socket, destination and probe. Failures of its link are its target's."""
        return self._failures.setdefault(tunnel, Counter())

    def prune(self, targets: Container[str], tunnels: Container[str]) -> None:
        """Drop the counters of all targets and tunnels but these."""
        self._targets = {name: counters for name, counters in self._targets.items() if name in targets}
        self._failures = {name: count for name, count in self._failures.items() if name in tunnels}
