"""The token bucket with a fake clock: the rate holds, no client starves, and the rate can change while in use."""

import heapq
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.token_bucket import Bucket

MIB = 1024 * 1024
READ = 65536


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def pumped(bucket: Bucket, clock: FakeClock, flows: int, seconds: float, read: int = READ) -> list[int]:
    """What each of `flows` clients moved, reading whenever it may. A read itself takes no time."""
    moved = [0] * flows
    order = count()
    end = clock.time + seconds
    waiting = [(clock.time, next(order), flow) for flow in range(flows)]
    while waiting[0][0] < end:
        at, _, flow = heapq.heappop(waiting)
        clock.time = max(clock.time, at)
        moved[flow] += read
        heapq.heappush(waiting, (clock.time + bucket.take(read), next(order), flow))
    clock.time = end
    return moved


@pytest.mark.parametrize("rate", [1 * MIB, 10 * MIB, 20 * MIB])
@pytest.mark.parametrize("flows", [1, 7, 100])
def test_all_clients_together_keep_to_the_rate_and_use_it_up(rate: int, flows: int) -> None:
    clock = FakeClock()
    bucket = Bucket(rate, clock)
    total = sum(pumped(bucket, clock, flows, 60.0))
    assert total <= bucket.burst + rate * 60 + flows * READ
    assert total >= rate * 60


@pytest.mark.parametrize("rate", [1 * MIB, 10 * MIB, 20 * MIB])
def test_clients_that_read_equally_share_equally(rate: int) -> None:
    clock = FakeClock()
    moved = pumped(Bucket(rate, clock), clock, 50, 60.0)
    assert max(moved) - min(moved) <= 2 * READ + rate // 10  # the burst goes to the first client


def test_a_small_client_among_greedy_ones_waits_one_turn_at_most() -> None:
    clock = FakeClock()
    bucket = Bucket(10 * MIB, clock)
    pumped(bucket, clock, 20, 10.0)
    assert bucket.take(100) <= (20 * READ + 100) / (10 * MIB)


def test_traffic_below_the_rate_is_not_delayed() -> None:
    clock = FakeClock()
    bucket = Bucket(1 * MIB, clock)
    for _ in range(1000):
        assert bucket.take(1000) == 0.0
        clock.time += 0.001


def test_a_pause_is_as_long_as_the_debt() -> None:
    clock = FakeClock()
    bucket = Bucket(100_000, clock)
    assert bucket.take(65536) == 0.0
    assert bucket.take(50_000) == pytest.approx(0.5)
    clock.time += 0.5
    assert bucket.take(0) == pytest.approx(0.0)
    assert bucket.take(100_000) == pytest.approx(1.0)


def test_an_idle_hour_saves_no_more_than_the_burst() -> None:
    clock = FakeClock()
    bucket = Bucket(20 * MIB, clock)
    clock.time += 3600
    assert bucket.take(2 * MIB) == 0.0
    assert bucket.take(1 * MIB) == pytest.approx(1 / 20)


def test_a_late_timer_costs_no_bandwidth() -> None:
    clock = FakeClock()
    bucket = Bucket(10 * MIB, clock)
    begin, moved = clock.time, 0
    while clock.time < begin + 60:
        moved += READ
        clock.time += bucket.take(READ) + 0.005
    assert moved == pytest.approx(10 * MIB * 60, rel=0.03)


def test_a_new_rate_applies_at_once() -> None:
    clock = FakeClock()
    bucket = Bucket(1 * MIB, clock)
    pumped(bucket, clock, 4, 10.0)
    for rate in (20 * MIB, 1 * MIB):
        bucket.rate = rate
        assert bucket.rate == rate
        total = sum(pumped(bucket, clock, 4, 60.0))
        assert total == pytest.approx(rate * 60, rel=0.02)


def test_a_debt_made_at_a_high_rate_does_not_block_a_low_one() -> None:
    clock = FakeClock()
    bucket = Bucket(20 * MIB, clock)
    owed = bucket.take(22 * MIB)
    bucket.rate = 1024
    assert bucket.take(0) == pytest.approx(owed)
    bucket.rate = 20 * MIB
    assert bucket.take(0) < owed


def test_lowering_the_rate_lowers_the_saved_tokens() -> None:
    clock = FakeClock()
    bucket = Bucket(20 * MIB, clock)
    bucket.rate = 1 * MIB
    assert bucket.take(2 * MIB) > 1.8


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_of_zero_or_less_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        Bucket(rate, FakeClock())
    bucket = Bucket(1000, FakeClock())
    with pytest.raises(ValueError, match="expected a positive number"):
        bucket.rate = rate
    assert bucket.rate == 1000


@given(
    st.integers(1, 100 * MIB),
    st.lists(st.tuples(st.integers(0, 4 * READ), st.floats(0, 10)), min_size=1, max_size=100),
)
def test_one_client_that_obeys_never_exceeds_the_rate(rate: int, reads: list[tuple[int, float]]) -> None:
    clock = FakeClock()
    bucket = Bucket(rate, clock)
    begin, moved = clock.time, 0
    for size, idle in reads:
        moved += size
        clock.time += bucket.take(size) + idle
        assert moved <= bucket.burst + rate * (clock.time - begin) * 1.000001 + 1
