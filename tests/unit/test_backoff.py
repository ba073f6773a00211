"""Backoff: the delays of each class of failure (docs/architecture.md, "Failure model")."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import backoff
from reconciler.core.backoff import Wait
from reconciler.core.observed import Failure, Now, Reason, Tries
from reconciler.core.spec import Reconnect
from unit.build import access

RECONNECT = Reconnect(initial=0.25, max=30.0, factor=2.0)
HERE = access("here")
SLOW = frozenset(Reason) - backoff.QUICK - backoff.GUARDED


def failing(reason: Reason, times: int, every: float = 0.0, fingerprint: str = "") -> Tries:
    """Return the record after that many failures, one try each `every` seconds from 0 on."""
    tries = None
    for attempt in range(times):
        tries = backoff.failed(tries, Failure(reason, "told"), attempt * every, HERE, fingerprint)
    assert tries is not None
    return tries


def delay(tries: Tries, *, held: bool = False, fingerprint: str = "", name: str = "prod") -> float:
    return backoff.next_link_try(tries, RECONNECT, name, held, fingerprint).at - tries.at


@pytest.mark.parametrize("reason", sorted(backoff.QUICK))
def test_a_quick_failure_waits_at_most_200_ms_in_the_first_ten_seconds(reason: Reason) -> None:
    for times in range(1, 50):
        assert 0.1 < delay(failing(reason, times, every=0.2)) <= 0.2


@pytest.mark.parametrize("reason", sorted(backoff.QUICK))
def test_after_ten_seconds_a_quick_failure_waits_at_most_a_tenth_of_the_outage(reason: Reason) -> None:
    """Without the bound, the count of quick tries would raise the delay from 200 ms to the maximum."""
    assert 0.8 <= delay(failing(reason, 51, every=0.2)) <= 1.0
    assert 8 <= delay(failing(reason, 101, every=1.0)) <= 10.0
    assert 24 <= delay(failing(reason, 1001, every=1.0)) <= 30.0


@pytest.mark.parametrize("reason", sorted(backoff.QUICK))
def test_while_a_client_is_held_a_quick_failure_waits_at_most_two_seconds(reason: Reason) -> None:
    assert 1.6 <= delay(failing(reason, 1001, every=1.0), held=True) <= 2.0


@pytest.mark.parametrize("reason", sorted(SLOW))
def test_a_slow_failure_doubles_up_to_the_maximum(reason: Reason) -> None:
    waits = [delay(failing(reason, times), held=True) for times in range(1, 12)]
    for wait, limit in zip(waits, (0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert 0.8 * limit <= wait <= limit


@pytest.mark.parametrize("reason", sorted(backoff.GUARDED))
def test_a_guarded_failure_waits_one_minute_doubling_to_fifteen(reason: Reason) -> None:
    waits = [delay(failing(reason, times), held=True) for times in range(1, 8)]
    for wait, limit in zip(waits, (60, 120, 240, 480, 900, 900, 900), strict=True):
        assert 0.8 * limit <= wait <= limit


@pytest.mark.parametrize("reason", sorted([*backoff.GUARDED, Reason.SECRET_UNREADABLE]))
def test_a_guarded_failure_is_retried_when_its_file_changes(reason: Reason) -> None:
    assert delay(failing(reason, 5, fingerprint="v1"), fingerprint="v2") == 0
    assert delay(failing(reason, 5, fingerprint="v1"), fingerprint="v1") > 0


def test_the_reasons_of_each_class() -> None:
    assert {Reason.REFUSED, Reason.UNREACHABLE, Reason.CLOSED_BY_SERVER} <= backoff.QUICK
    assert {Reason.AUTH, Reason.HOST_KEY} <= backoff.GUARDED
    assert {Reason.DNS, Reason.TIMEOUT, Reason.SERVER_BUSY, Reason.PROTOCOL} <= SLOW
    assert not backoff.QUICK & backoff.GUARDED


def test_each_next_try_has_what_sets_its_time() -> None:
    def wait(tries: Tries, fingerprint: str = "", wall: float = 0.0) -> Wait:
        return backoff.next_dial(tries, RECONNECT, "prod", False, fingerprint, Now(tries.at, wall)).wait

    assert wait(failing(Reason.REFUSED, 1)) is Wait.QUICK
    assert wait(failing(Reason.DNS, 1)) is Wait.RECONNECT
    assert wait(failing(Reason.AUTH, 1)) is Wait.GUARDED
    assert wait(failing(Reason.AUTH, 1), fingerprint="new") is Wait.AT_ONCE
    assert wait(replace(failing(Reason.REFUSED, 1), at_once=True)) is Wait.AT_ONCE
    early = replace(failing(Reason.AUTH, 5), last=Failure(Reason.CERTIFICATE_EXPIRED, "not valid yet", ends_at=100.0))
    assert wait(early, wall=90.0) is Wait.CERTIFICATE
    assert wait(early, wall=-10000.0) is Wait.GUARDED, "the clock may be wrong: it is tried before, too"


def test_failures_are_counted_within_an_outage() -> None:
    tries = failing(Reason.REFUSED, 3, every=5.0)
    assert (tries.failures, tries.at, tries.since) == (3, 10.0, 0.0)


def test_another_access_starts_a_new_count() -> None:
    tries = failing(Reason.AUTH, 5)
    assert backoff.failed(tries, tries.last, 7.0, access("there"), "").failures == 1
    again = backoff.lost(tries, tries.last, 7.0, 0.0, access("there"), "")
    assert (again.failures, again.since, again.at_once) == (0, 7.0, True)


def test_a_link_that_was_up_long_enough_starts_a_new_outage() -> None:
    tries = backoff.lost(failing(Reason.REFUSED, 9), Failure(Reason.CLOSED_BY_SERVER, ""), 50.0, 10.0, HERE, "s")
    assert (tries.failures, tries.since, tries.at_once, tries.fingerprint) == (0, 50.0, True, "s")
    assert delay(tries) == 0


def test_a_link_lost_early_continues_the_outage() -> None:
    before = failing(Reason.REFUSED, backoff.AT_ONCE_LOSSES)
    closed = Failure(Reason.CLOSED_BY_SERVER, "")
    lived, stillborn = (backoff.lost(before, closed, 50.0, up_for, HERE, "") for up_for in (1.0, 0.9))
    assert (lived.failures, lived.since, delay(lived)) == (backoff.AT_ONCE_LOSSES + 1, 0.0, 0)
    assert (stillborn.failures, stillborn.since) == (backoff.AT_ONCE_LOSSES + 1, 0.0)
    assert delay(stillborn) > 0


def test_an_outage_ends_after_ten_seconds_up() -> None:
    tries = failing(Reason.REFUSED, 3, every=1.0)
    assert not backoff.is_over(tries, up_since=3.0, now=12.9)
    assert backoff.is_over(tries, up_since=3.0, now=13.0)
    assert not backoff.is_over(tries, up_since=1.0, now=100.0)  # another link was up all the while


def test_a_taken_port_is_tried_every_second() -> None:
    for reason in (Reason.LOCAL_PORT_IN_USE, Reason.REMOTE_PORT_IN_USE, Reason.BIND):
        assert backoff.next_socket_try(failing(reason, 100), "prod/db") == 1.0


def test_a_listener_without_a_descriptor_is_tried_every_few_seconds() -> None:
    assert [backoff.next_socket_try(failing(Reason.RESOURCES, n), "prod/db") for n in (1, 2, 100)] == [1.0, 2.0, 5.0]


@given(st.sampled_from(Reason), st.integers(1, 10_000), st.text(max_size=8), st.booleans(), st.floats(0, 60))
def test_the_next_try_is_always_ahead_and_never_beyond_the_cap_of_its_class(
    reason: Reason, times: int, name: str, held: bool, every: float
) -> None:
    since = 0.0
    tries = Tries(times, Failure(reason, ""), times * every, since, False, HERE, "")
    wait = delay(tries, held=held, name=name)
    assert 0 < wait <= (900 if reason in backoff.GUARDED else 30)


def test_jitter_spreads_the_retries_of_many_targets() -> None:
    tries = failing(Reason.TIMEOUT, 12)
    waits = {delay(tries, name=f"target-{number}") for number in range(100)}
    assert len(waits) > 90
    assert max(waits) - min(waits) > 4
