"""The receive window on simulated paths: it fills a long one, keeps queues short, and stays within its budget."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.ssh.channels.window import GAIN, ReceiveWindow, WindowBudget

MIB: Final = 1 << 20
STEP = 0.0001  # seconds of simulated time
PACKET = 16 << 10


@dataclass
class Path:
    """One way of a path with a bottleneck: `rate` bytes a second, `delay` seconds each way, and the queue before it."""

    rate: float
    delay: float
    queue: int = 0  # bytes before the bottleneck
    arriving: deque[tuple[float, int]] = field(default_factory=deque)
    _spare: float = 0.0

    def send(self, count: int) -> None:
        self.queue += count

    def step(self, now: float) -> int:
        """Let a step of time pass. Return the bytes that arrive at its end."""
        self._spare = min(self._spare + self.rate * STEP, self.rate * STEP + PACKET) if self.queue else 0.0
        through = min(self.queue, int(self._spare))
        self.queue -= through
        self._spare -= through
        if through:
            self.arriving.append((now + self.delay, through))
        count = 0
        while self.arriving and self.arriving[0][0] <= now:
            count += self.arriving.popleft()[1]
        return count


class Download:
    """A peer that always has data, a path, and a client that takes `takes` bytes a second."""

    def __init__(self, budget: WindowBudget, path: Path, takes: float = float("inf")) -> None:
        self.window = ReceiveWindow(budget)
        self.path = path
        self.takes = takes
        self.now = 0.0
        self.taken = 0
        self.held_most = self.queue_most = self.size_most = 0
        self._allowed = self.window.left  # what the peer may send
        self._adjustments: deque[tuple[float, int]] = deque()
        self._appetite = 0.0

    def run(self, seconds: float) -> float:
        """Run for this time. Return the bytes a second that the client took in its last half."""
        self.held_most = self.queue_most = self.size_most = 0
        half = round(seconds / 2 / STEP)
        for _ in range(half):
            self.step()
        before = self.taken
        for _ in range(half):
            self.step()
        return (self.taken - before) / (seconds / 2)

    def step(self) -> None:
        self.now += STEP
        while self._adjustments and self._adjustments[0][0] <= self.now:
            self._allowed += self._adjustments.popleft()[1]
        self.path.send(self._allowed)
        self._allowed = 0
        arrived = self.path.step(self.now)
        self.window.left -= arrived
        self.window.held += arrived
        assert self.window.left >= 0
        self._appetite = min(self._appetite + self.takes * STEP, 1e12) if self.window.held else 0.0
        count = min(self.window.held, int(self._appetite))
        if count:
            self._appetite -= count
            self.taken += count
            if credit := self.window.take(count, self.now):
                self._adjustments.append((self.now + self.path.delay, credit))
        assert self.window.left + self.window.held <= self.window._reserved
        assert self.window.size <= self.window._reserved
        self.held_most = max(self.held_most, self.window.held)
        self.queue_most = max(self.queue_most, self.path.queue)
        self.size_most = max(self.size_most, self.window.size)


@pytest.mark.parametrize("delay", [0.05, 0.1])
@pytest.mark.parametrize("rate", [10 * MIB, 100 * MIB])
def test_a_long_path_runs_full(rate: int, delay: float) -> None:
    download = Download(WindowBudget(delay=delay), Path(rate, delay / 2))
    download.run(1.0)
    assert download.run(1.0) > 0.97 * rate
    # The queue before the bottleneck lasts about as long as the path: GAIN is 2.
    assert download.queue_most < 1.3 * rate * delay


def test_a_long_path_is_full_after_a_few_round_trips() -> None:
    rate, delay = 200 * MIB, 0.05
    download = Download(WindowBudget(delay=delay), Path(rate, delay / 2))
    download.run(8 * delay)
    assert download.run(4 * delay) > 0.9 * rate


@pytest.mark.parametrize("rate", [200 * MIB, 600 * MIB, 1200 * MIB])
def test_a_short_path_has_a_short_queue(rate: int) -> None:
    """Our own work is the bottleneck here: what the peer sends beyond it waits in front of the neighbours."""
    budget = WindowBudget(delay=0.0001)
    download = Download(budget, Path(rate, 0.00005))
    assert download.run(1.0) > 0.97 * rate
    download.run(0.5)
    assert download.queue_most <= max(budget.usual, rate * 0.001)


def test_a_slow_client_gets_a_small_window() -> None:
    budget = WindowBudget(delay=0.05)
    download = Download(budget, Path(100 * MIB, 0.025))
    download.run(1.0)
    assert download.size_most > 4 * MIB
    download.takes = 2 * MIB
    download.run(8.0)
    assert download.run(1.0) > 0.97 * download.takes
    assert download.held_most <= max(budget.usual, 1.05 * GAIN * download.takes * (budget.delay + budget.slack))
    download.takes = 0.1 * MIB
    download.run(4.0)
    download.run(0.5)
    assert download.held_most <= budget.usual
    assert budget.reserved == budget.usual


def test_a_window_is_large_only_while_its_channel_is_alone() -> None:
    budget = WindowBudget(channels=1)
    download = Download(budget, Path(1000 * MIB, 0.00005))
    download.run(0.2)
    assert download.window.size >= budget.alone
    budget.channels = 2
    download.run(0.2)
    assert download.window.size < budget.alone


def test_a_client_that_stops_holds_no_more_than_its_window() -> None:
    budget = WindowBudget()
    download = Download(budget, Path(100 * MIB, 0.0), takes=0.0)
    first = download.window.size
    download.run(1.0)
    assert download.window.held == first
    assert download.window.left == 0


def test_a_pause_does_not_shrink_the_window() -> None:
    budget = WindowBudget(delay=0.05)
    download = Download(budget, Path(100 * MIB, 0.025))
    download.run(1.0)
    size = download.window.size
    download.now += 30.0
    download.window.held += 1000
    download.window.left -= 1000
    download.window.take(1000, download.now)
    assert download.window.size == size


def test_thousands_of_idle_channels_stay_within_the_budget() -> None:
    budget = WindowBudget(delay=0.05)
    windows = [ReceiveWindow(budget) for _ in range(10_000)]
    assert budget.reserved <= budget.total
    assert min(window.size for window in windows) == budget.least
    assert windows[0].size == 2 * MIB
    for window in windows:
        window.release()
    assert budget.reserved == 0


def test_one_busy_channel_among_thousands_of_idle_ones_gets_a_full_window() -> None:
    budget = WindowBudget(delay=0.05)
    for _ in range(10_000):
        ReceiveWindow(budget)
    rate = 50 * MIB
    download = Download(budget, Path(rate, 0.025))
    assert download.window.size == budget.least
    download.run(2.0)
    assert download.run(1.0) > 0.97 * rate


def test_many_clients_that_stop_after_a_download_stay_within_the_budget() -> None:
    budget = WindowBudget(delay=0.1)
    downloads = [Download(budget, Path(100 * MIB, 0.05)) for _ in range(40)]
    for _ in range(4000):
        for download in downloads:
            download.step()
    for download in downloads:
        download.takes = 0.0
    for _ in range(3000):
        for download in downloads:
            download.step()
    held = sum(download.window.held for download in downloads)
    assert 32 * MIB < held <= budget.total


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(["take", "receive", "delay", "open", "release"]), st.integers(0, 1 << 22)
        ),
        max_size=200,
    ),
    st.floats(0.0, 0.2),
)
def test_reservations_cover_every_window(history: list[tuple[int, str, int]], delay: float) -> None:
    """The budget has a reservation for all bytes that a peer may send and all that are held, after any history."""
    budget = WindowBudget(total=8 << 20, most=4 << 20, delay=delay)
    windows = [ReceiveWindow(budget)]
    now = 0.0
    for which, action, amount in history:
        window = windows[which % len(windows)] if windows else None
        now += amount * 1e-8
        if action == "open" and len(windows) < 20:
            windows.append(ReceiveWindow(budget))
        elif action == "delay":
            budget.delay = amount * 1e-8
        elif window is None:
            continue
        elif action == "release":
            windows.remove(window)
            window.release()
        elif action == "receive":
            count = min(amount, window.left)
            window.left -= count
            window.held += count
        else:
            window.take(min(amount, window.held), now)
        for each in windows:
            assert each.left >= 0
            assert each.left + each.held <= each._reserved
        assert budget.reserved == sum(each._reserved for each in windows)
        assert budget.reserved <= budget.total
