"""Runs a check on generated inputs, with a limit of CPU time and memory for each.

Input: a Hypothesis strategy, a check that raises for a wrong answer, a share of the seconds of `make fuzz`. In the
suite the share is 0: a fixed number of inputs, the same in every run. With a share: new inputs until it is used up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

CPU_SECONDS = 2.0  # limit for one input; most take milliseconds
MEMORY_MIB = 64.0  # limit of growth for one input
_BATCH = 400  # inputs between two checks of the clock
_PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


def mostly(usual: SearchStrategy[T], *seldom: SearchStrategy[T]) -> SearchStrategy[T]:
    """Return a strategy that takes the usual kind three times out of four. `one_of` takes all kinds equally often."""
    others = st.one_of(seldom)
    return st.integers(0, 3).flatmap(lambda chance: usual if chance else others)


class Fuzz:
    """The fuzzing of one test. `figures` are lines for the summary."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.figures: list[str] = []
        self._inputs = 0
        self._slowest = 0.0
        self._cpu_seconds = CPU_SECONDS
        self._largest = 0.0

    @property
    def long(self) -> bool:
        """Return True if this is `make fuzz` and not the suite."""
        return self.seconds > 0

    def run(
        self,
        strategy: SearchStrategy[T],
        check: Callable[[T], None],
        *,
        examples: int,
        first: Iterable[T] = (),
        cpu_seconds: float = CPU_SECONDS,
    ) -> None:
        """Call `check` with the `first` inputs, then with `examples` generated ones or for the seconds of this test."""
        begin, self._cpu_seconds = time.monotonic(), cpu_seconds
        for one in first:
            self._bounded(check, one)
        if not self.long:
            self._batch(strategy, check, examples, derandomize=True)
        while self.long and time.monotonic() - begin < self.seconds:
            self._batch(strategy, check, min(_BATCH, 10 * examples), derandomize=False)
        self.figures.append(
            f"{self._inputs} inputs in {time.monotonic() - begin:.0f} s; at most {self._slowest * 1000:.1f} ms of "
            f"processor time and {self._largest:.1f} MiB for one"
        )

    def _batch(
        self, strategy: SearchStrategy[T], check: Callable[[T], None], examples: int, *, derandomize: bool
    ) -> None:
        bounded = settings(
            max_examples=examples,
            derandomize=derandomize,
            database=None,
            deadline=None,
            phases=_PHASES,
            print_blob=not derandomize,
            suppress_health_check=list(HealthCheck),
        )

        def fuzzed(given_input: T) -> None:
            self._bounded(check, given_input)

        bounded(given(strategy)(fuzzed))()

    def _bounded(self, check: Callable[[T], None], given_input: T) -> None:
        _forget_peak()
        before, begin = _status_mib("VmRSS"), time.thread_time()
        check(given_input)
        seconds, mebibytes = time.thread_time() - begin, _status_mib("VmHWM") - before
        self._inputs += 1
        self._slowest, self._largest = max(self._slowest, seconds), max(self._largest, mebibytes)
        if self.long:  # no timed assertions in the suite
            assert seconds < self._cpu_seconds, f"one input took {seconds:.1f} s of processor time"
        assert mebibytes < MEMORY_MIB, f"one input took {mebibytes:.0f} MiB of memory"


def _forget_peak() -> None:
    """Reset the peak of resident memory (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):  # not Linux, or no permission: the peak of the whole run is used instead
        Path("/proc/self/clear_refs").write_text("5")


def _status_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0
