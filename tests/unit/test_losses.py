"""What the lost connections of a target have in common."""

from __future__ import annotations

import pytest

from reconciler.core.losses import Loss, is_over, pattern
from reconciler.core.observed import Failure, Reason

CLOSED = Failure(Reason.CLOSED_BY_SERVER, "the SSH server closed the connection")
SILENT = Failure(Reason.KEEPALIVE, "the SSH server stopped answering")


def losses(*times: tuple[float, float], failure: Failure = CLOSED, keepalive: float = 0.0) -> list[Loss]:
    """Return losses with these idle times and ages."""
    return [Loss(failure, idle, age, keepalive) for idle, age in times]


def test_the_same_idle_time_again_and_again_names_the_keepalive() -> None:
    found = pattern(losses((60.2, 300), (60.0, 60.0), (60.4, 125)))
    assert found is not None
    assert found.reason is Reason.CLOSED_BY_SERVER
    assert "its last 3 connections ended after about 60 s without data" in found.message
    assert "`keepaliveInterval: 20s`" in found.message


def test_the_same_age_again_and_again_names_a_limit_of_the_age() -> None:
    found = pattern(losses((5, 65), (5, 65.1), (5, 65.2), keepalive=10))
    assert found is not None
    assert "about 65 s after the login" in found.message
    assert "keepaliveInterval" not in found.message


def test_a_short_idle_time_gets_a_shorter_keepalive() -> None:
    found = pattern(losses(*[(2.0, age) for age in (9, 20, 40)]))
    assert found is not None
    assert "`keepaliveInterval: 600ms`" in found.message


@pytest.mark.parametrize(
    "times",
    [
        [(60, 60), (60, 60)],
        [(60, 60), (20, 300), (60, 100)],
        [(0.1, 5), (0.1, 15), (0.1, 25)],
        [(60, 60), (64, 64), (60, 60)],
    ],
    ids=["two", "one differs", "in use", "beyond the spread"],
)
def test_losses_without_a_pattern_stay_as_they_are(times: list[tuple[float, float]]) -> None:
    assert pattern(losses(*times)) is None


def test_a_loss_for_another_reason_breaks_the_pattern() -> None:
    assert pattern([*losses((60, 60), (60, 60)), *losses((60, 60), failure=SILENT, keepalive=60)]) is None


def test_an_old_pattern_does_not_hide_the_last_losses() -> None:
    assert pattern(losses((60, 60), (60, 60), (60, 60), (5, 700))) is None


def test_connections_that_fall_silent_name_a_long_keepalive_only() -> None:
    times = [(240.0, 400.0), (240.0, 900.0), (240.0, 300.0)]
    found = pattern(losses(*times, failure=SILENT, keepalive=60))
    assert found is not None
    assert "`keepaliveInterval: 20s`" in found.message
    assert pattern(losses(*times, failure=SILENT, keepalive=10)) is None


def test_a_connection_that_lives_much_longer_ends_the_pattern() -> None:
    lost = losses((60, 100), (60, 60), (60, 80))
    assert not is_over(lost, 299)
    assert is_over(lost, 301)
    assert not is_over([], 1000)
