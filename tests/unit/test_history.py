"""The history of tunnels: the time in each state, losses and reconnects by minute, and the last failures."""

from __future__ import annotations

import tracemalloc

import pytest

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Verdict
from reconciler.core.subject import Subject
from reconciler.report.changes import Change
from reconciler.report.history import FAILURES, MESSAGE_MAX, MINUTES, Histories, TunnelHistory

NOW = 1_800_000_000.0  # the beginning of a minute


def failed(reason: Reason = Reason.REFUSED, message: str = "it refuses: start it") -> Verdict:
    return Verdict(Phase.DOWN, reason, message)


class Told:
    """Histories of one tunnel that gets a new verdict at some seconds, and a pass in each second without one."""

    def __init__(self, verdicts: dict[float, Verdict], until: float = 0) -> None:
        self.histories = Histories()
        self.before: Phase | None = None
        self.at = NOW
        for second, verdict in verdicts.items():
            self.tell(second, verdict)
        self.passes(until)

    def passes(self, until: float) -> None:
        while self.at < NOW + until:
            self.histories.update((), self.at)
            self.at += 1

    def tell(self, second: float, verdict: Verdict | None) -> None:
        self.passes(second)
        self.at = NOW + second
        change = Change(Subject("tunnel", "prod/db"), self.before, verdict, "", self.at)
        self.before = verdict.phase if verdict is not None else None
        self.histories.update([change], self.at)

    def history(self, second: float) -> TunnelHistory:
        found = self.histories.get("prod/db", NOW + second)
        assert found is not None
        return found


UP = Verdict(Phase.UP)


def test_each_minute_has_the_seconds_in_each_state() -> None:
    history = Told({0: Verdict(Phase.CONNECTING), 10: UP, 70: failed(), 75: UP, 120: UP}, 130).history(130)
    assert history.since == NOW - 57 * 60
    assert (history.up[-3:], history.down[-3:], history.off[-3:]) == ((50, 55, 10), (10, 5, 0), (0, 0, 0))
    assert set(history.up[:-3] + history.down[:-3] + history.off[:-3]) == {0.0}


def test_short_failures_are_recorded_to_the_millisecond() -> None:
    told = Told({0: UP})
    told.tell(1.0, failed())
    told.tell(1.25, UP)
    assert told.history(2.0).down[-1] == 0.25
    assert told.history(2.0).up[-1] == 1.75


@pytest.mark.parametrize("phase", [Phase.OFF, Phase.STANDBY, Phase.DRAINING])
def test_a_tunnel_that_is_turned_off_is_not_lost(phase: Phase) -> None:
    history = Told({0: UP, 10: Verdict(phase), 20: UP}, 30).history(30)
    assert (history.up[-1], history.down[-1], history.off[-1]) == (20, 0, 10)
    assert (history.losses[-1], history.reconnects[-1]) == (0, 1)


@pytest.mark.parametrize(
    "verdict", [failed(), Verdict(Phase.CONNECTING), Verdict(Phase.UNHEALTHY, Reason.PROBE, "503")]
)
def test_a_tunnel_that_leaves_up_is_lost(verdict: Verdict) -> None:
    history = Told({0: UP, 10: verdict, 20: UP}, 30).history(30)
    assert (history.losses[-1], history.reconnects[-1]) == (1, 1)


def test_another_reason_in_the_same_phase_is_no_loss() -> None:
    old_in_use = Verdict(Phase.UP, Reason.AUTH, "still using the old connection")
    history = Told({0: UP, 5: old_in_use, 10: UP}, 30).history(30)
    assert (history.losses[-1], history.reconnects[-1], history.up[-1]) == (0, 0, 30)
    assert [failure.reason for failure in history.failures] == [Reason.AUTH]


def test_minutes_older_than_an_hour_are_dropped() -> None:
    told = Told({0: failed()})
    told.tell(1, UP)
    told.passes(MINUTES * 60)
    assert told.history(MINUTES * 60 - 1).down[0] == 1
    assert sum(told.history(MINUTES * 60).down) == 0
    assert told.history(MINUTES * 60 + 1).up == (*[60.0] * (MINUTES - 1), 1.0)


def test_the_time_of_a_stopped_process_is_in_no_state() -> None:
    told = Told({0: UP}, 60)  # the last pass is in second 59
    told.at = NOW + 600
    told.passes(610)
    history = told.history(610)
    assert (history.up[-11:-9], history.up[-1], sum(history.up)) == ((59, 0), 10, 69)
    assert history.losses == (0,) * MINUTES


def test_a_stop_of_days_leaves_an_empty_hour() -> None:
    told = Told({0: failed()}, 60)
    told.at = NOW + 3 * 86_400
    told.passes(3 * 86_400 + 5)
    assert sum(told.history(3 * 86_400 + 5).down) == 5


@pytest.mark.parametrize("back", [3600.0, 3 * 86_400.0])
def test_a_clock_that_is_set_back_starts_the_history_again(back: float) -> None:
    told = Told({0: UP}, 60)
    told.at -= back
    told.passes(60 - back + 5)
    assert sum(told.history(60 - back + 5).up) == 5


def test_a_clock_that_is_corrected_by_a_second_loses_nothing() -> None:
    told = Told({0: UP}, 61)
    assert sum(told.history(61).up) == 61
    told.at -= 2  # back in the previous minute
    told.tell(59, failed())
    told.passes(62)
    history = told.history(62)
    assert (sum(history.up), sum(history.down), sum(history.losses)) == (61, 1, 1)


def test_the_state_is_unknown_while_passes_fail() -> None:
    told = Told({0: UP}, 10)
    assert sum(told.history(600).up) < 60


def test_the_same_failure_is_counted_and_another_one_is_added() -> None:
    told = Told({0: failed(Reason.DNS, "no such name")})
    for second in range(1, 7, 2):
        told.tell(second, failed(message=f"refused in second {second}"))
        told.tell(second + 1, UP)
    newest, oldest = told.history(8).failures
    assert (newest.reason, newest.count, newest.message) == (Reason.REFUSED, 3, "refused in second 5")
    assert (newest.first, newest.last) == (NOW + 1, NOW + 5)
    assert (oldest.reason, oldest.count, oldest.first) == (Reason.DNS, 1, NOW)


def test_a_removed_tunnel_has_no_history() -> None:
    told = Told({0: UP})
    told.tell(1, None)
    assert told.histories.get("prod/db", NOW + 2) is None
    told.tell(3, UP)
    assert sum(told.history(4).up) == 1


def test_the_memory_of_a_tunnel_has_a_limit() -> None:
    """Each tunnel has more changes, and longer messages of its own, than are kept."""
    histories = Histories()
    reasons = [Reason.DNS, Reason.TIMEOUT]
    tunnels = 100

    def fail_all(second: int) -> None:
        at, reason = NOW + second, reasons[second % 2]
        for number in range(tunnels):
            verdict = failed(reason, f"{second}-{number}-".ljust(2 * MESSAGE_MAX, "."))
            histories.update([Change(Subject("tunnel", f"t/{number}"), Phase.UP, verdict, "", at)], at)

    tracemalloc.start()
    try:
        for second in range(FAILURES):
            fail_all(second)
        filled = tracemalloc.get_traced_memory()[0]
        for second in range(FAILURES, 3 * FAILURES):
            fail_all(second)
        later = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert later < 1.02 * filled
    assert filled < tunnels * 7 * 1024
