"""What went wrong and how long things took, counted for the metrics.

Owns the counters that outlive links, sockets and probes: they belong to a target or a tunnel for as long as it is
asked for. In: one call for each event, from where it happens. Out: the counters themselves, to be copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from reconciler.core.histogram import Histogram
from reconciler.core.observed import Reason

# A login over a satellite takes seconds, one on loopback 50 ms; a channel is one round trip and a connect.
CONNECT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
DIAL_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(slots=True)
class TargetCounters:
    """Of one target. `certificate_expires` is that of the certificate which logged in last (Unix time)."""

    failures: Counter[Reason] = field(default_factory=Counter)
    connects: Histogram = field(default_factory=lambda: Histogram(CONNECT_BOUNDS))
    dials: Histogram = field(default_factory=lambda: Histogram(DIAL_BOUNDS))
    probes: Histogram = field(default_factory=lambda: Histogram(DIAL_BOUNDS))
    certificate_expires: float | None = None


class Counters:
    """See the module."""

    def __init__(self) -> None:
        self._targets: dict[str, TargetCounters] = {}
        self._failures: dict[str, Counter[Reason]] = {}

    def target(self, name: str) -> TargetCounters:
        return self._targets.setdefault(name, TargetCounters())

    def failures(self, tunnel: str) -> Counter[Reason]:
        """Of one tunnel, by its id: its own socket, destination or probe; those of its link are its target's."""
        return self._failures.setdefault(tunnel, Counter())

    def forget(self, targets: Container[str], tunnels: Container[str]) -> None:
        """Drop those of targets and tunnels that are gone."""
        self._targets = {name: counters for name, counters in self._targets.items() if name in targets}
        self._failures = {name: count for name, count in self._failures.items() if name in tunnels}
