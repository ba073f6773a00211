"""The limit of password guesses: it counts by source, and does not delay clients with correct passwords."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.rules.guess_limiter import (
    BURST,
    INTERVAL,
    LONGEST_WAIT,
    REMEMBERED,
    SOURCES_MAX,
    Guess,
    GuessLimiter,
)
from reconciler.core.rules.origin import UNIX, Origin, UnknownOrigin
from unit.build import origin

HERE = origin("192.0.2.1")


class World:
    """A limiter, a clock, and clients that each try one login."""

    def __init__(self) -> None:
        self.guesses = GuessLimiter()
        self.now = 1000.0
        self._next = 0

    def admit(self, login: int | None = None, *, source: Origin = HERE) -> Guess | None:
        """Another login each time, unless it is given."""
        self._next -= 1
        return self.guesses.admit(source, self._next if login is None else login, self.now)

    def wrong(self, login: int | None = None, *, source: Origin = HERE) -> float | None:
        """The wait of a wrong login; None if it is not compared."""
        guess = self.admit(login, source=source)
        if guess is None:
            return None
        self.guesses.settle(guess, right=False, now=self.now)
        return guess.wait

    def right(self, *, source: Origin = HERE) -> float | None:
        guess = self.admit(1, source=source)
        if guess is None:
            return None
        self.guesses.settle(guess, right=True, now=self.now)
        return guess.wait


def exhausted() -> World:
    world = World()
    while world.wrong() is not None:
        pass
    return world


def test_a_burst_is_compared_at_once_and_then_one_each_interval() -> None:
    world = World()
    waits = [world.wrong() for _ in range(30)]
    assert waits[:BURST] == [0.0] * BURST
    queued = int(LONGEST_WAIT / INTERVAL)
    assert waits[BURST : BURST + queued] == [INTERVAL * (number + 1) for number in range(queued)]
    assert set(waits[BURST + queued :]) == {None}


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_window_exceeds_the_burst_plus_one_each_interval(pauses: list[float]) -> None:
    world, compared = World(), list[float]()
    for pause in pauses:
        world.now += pause
        wait = world.wrong()
        if wait is not None:
            compared.append(world.now + wait)
    for first in range(len(compared)):
        for last in range(first, len(compared)):
            window = compared[last] - compared[first]
            assert last - first + 1 <= BURST + window / INTERVAL + 1 + 1e-6


def test_correct_passwords_are_not_delayed_without_guesses() -> None:
    world = World()
    assert {world.right() for _ in range(1000)} == {0.0}
    assert len(world.guesses) == 0


def test_a_correct_password_does_not_refund_wrong_ones() -> None:
    world = World()
    for _ in range(BURST):
        world.wrong()
        world.right()
    assert world.wrong() != 0.0


def test_a_correct_password_waits_like_the_guesses_of_its_address() -> None:
    world = exhausted()
    assert world.right() is None
    world.now += INTERVAL
    wait = world.right()
    assert wait is not None
    assert 0 < wait <= LONGEST_WAIT
    world.now += (BURST + LONGEST_WAIT) * INTERVAL
    assert world.right() == 0.0


def test_the_same_wrong_password_again_is_no_new_guess() -> None:
    world = World()
    assert {world.wrong(7) for _ in range(1000)} == {0.0}
    assert world.right() == 0.0


def test_a_password_that_was_wrong_may_become_right() -> None:
    world = World()
    world.wrong(1)
    assert world.right() == 0.0
    assert len(world.guesses._sources[0xC0000201].wrong) == 0


def test_only_some_wrong_passwords_are_remembered() -> None:
    world = World()
    for login in range(REMEMBERED + 1):
        world.wrong(login)
    [source] = world.guesses._sources.values()
    assert sorted(source.wrong) == list(range(1, REMEMBERED + 1))


def test_other_sources_are_not_delayed() -> None:
    world = exhausted()
    for source in (origin("192.0.2.2"), origin("2001:db8::1"), UNIX, UnknownOrigin("?")):
        assert world.right(source=source) == 0.0


def test_the_addresses_of_one_ipv6_network_are_one_source() -> None:
    world = World()
    waits = [world.wrong(source=origin(f"2001:db8:0:1::{number:x}")) for number in range(30)]
    assert waits[-1] is None
    assert world.wrong(source=origin("2001:db8:0:2::1")) == 0.0


def test_an_ipv4_mapped_address_is_the_same_source() -> None:
    world = exhausted()
    assert world.right(source=origin("::ffff:192.0.2.1")) is None


def test_the_table_of_sources_is_bounded_and_keeps_recent_ones() -> None:
    world = exhausted()
    for number in range(2 * SOURCES_MAX):
        world.wrong(source=origin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
        if number % 1000 == 0:
            assert world.right() is None
    assert len(world.guesses) == SOURCES_MAX


def test_the_result_for_a_source_that_was_dropped_is_ignored() -> None:
    world = World()
    guess = world.admit()
    assert guess is not None
    for number in range(SOURCES_MAX):
        world.wrong(source=origin(f"10.0.{number >> 8}.{number & 255}"))
    world.guesses.settle(guess, right=False, now=world.now)
    assert guess.source not in world.guesses._sources
