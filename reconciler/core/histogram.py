"""A histogram of durations: the data of a histogram metric, without a metrics library."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """A snapshot of a histogram. `counts` are cumulative, one for each of `bounds` (seconds) and one for all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        return self.counts[-1]


class Histogram:
    """Counts durations by bucket. `bounds` are the upper bounds of the buckets in seconds, ascending."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def frozen(self) -> Distribution:
        """Return a snapshot of the counts."""
        counts, so_far = [], 0
        for count in self._counts:
            so_far += count
            counts.append(so_far)
        return Distribution(self._bounds, tuple(counts), self._total)
