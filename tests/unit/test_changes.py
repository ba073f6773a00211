"""The change tracker: what counts as a change, since when a phase lasts, and how often a target reconnected."""

from __future__ import annotations

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Status, TargetStatus, Verdict
from reconciler.core.subject import Subject
from reconciler.report.changes import Change, ChangeTracker

PROD = Subject("target", "prod")
REFUSED = Verdict(Phase.DOWN, Reason.REFUSED, "connection refused")


def status_of(phase: Phase | Verdict, host: str = "") -> Status:
    verdict = phase if isinstance(phase, Verdict) else Verdict(phase)
    return Status((TargetStatus("prod", verdict, host, ()),), ())


def sentences(changes: list[Change]) -> list[str]:
    return [change.sentence() for change in changes]


def test_an_equal_status_is_no_change() -> None:
    tracker = ChangeTracker()
    assert sentences(tracker.update(status_of(Phase.UP, "a:22"), 1.0)) == ["target prod is up: a:22"]
    assert tracker.update(status_of(Phase.UP, "a:22"), 2.0) == []
    assert tracker.since(PROD) == 1.0


def test_another_reason_is_a_change_and_the_phase_lasts() -> None:
    tracker = ChangeTracker()
    tracker.update(status_of(REFUSED), 1.0)
    [change] = tracker.update(status_of(Verdict(Phase.DOWN, Reason.DNS, "no such name")), 2.0)
    assert change.sentence() == "target prod is down (dns): no such name"
    assert change.before is Phase.DOWN
    assert change.is_trouble
    assert tracker.since(PROD) == 1.0


def test_another_host_is_a_change() -> None:
    tracker = ChangeTracker()
    tracker.update(status_of(Phase.UP, "a:22"), 1.0)
    assert sentences(tracker.update(status_of(Phase.UP, "b:22"), 2.0)) == ["target prod is up: b:22"]
    assert tracker.since(PROD) == 1.0


def test_a_host_that_the_message_names_is_not_named_twice() -> None:
    [change] = ChangeTracker().update(status_of(Verdict(Phase.UP, message="on b:22, host 2 of 2"), "b:22"), 1.0)
    assert change.sentence() == "target prod is up: on b:22, host 2 of 2"


def test_a_failing_replacement_of_a_link_is_a_failure_of_an_up_target() -> None:
    tracker = ChangeTracker()
    tracker.update(status_of(Phase.UP, "a:22"), 1.0)
    [change] = tracker.update(status_of(Verdict(Phase.UP, Reason.AUTH, "the old one goes on"), "a:22"), 2.0)
    assert change.sentence() == "target prod is up (auth): a:22: the old one goes on"
    assert change.is_trouble
    assert tracker.since(PROD) == 1.0
    [change] = tracker.update(status_of(Phase.UP, "a:22"), 3.0)
    assert not change.is_trouble


def test_only_a_return_to_up_is_a_reconnect() -> None:
    tracker = ChangeTracker()
    for phase in (Phase.PENDING, Phase.CONNECTING, REFUSED, Phase.UP):
        tracker.update(status_of(phase), 1.0)
    assert tracker.reconnects(PROD) == 0, "it was never up before"
    for phase in (REFUSED, Phase.CONNECTING, Phase.UP, Phase.OFF, Phase.UP):
        tracker.update(status_of(phase), 2.0)
    assert tracker.reconnects(PROD) == 2


def test_a_removed_target_is_reported_once_and_its_counts_restart() -> None:
    tracker = ChangeTracker()
    tracker.update(status_of(Phase.UP), 1.0)
    tracker.update(status_of(REFUSED), 1.0)
    tracker.update(status_of(Phase.UP), 1.0)
    [gone] = tracker.update(Status((), ()), 2.0)
    assert (gone.sentence(), gone.before, gone.is_trouble) == ("target prod is gone", Phase.UP, False)
    assert tracker.update(Status((), ()), 3.0) == []
    tracker.update(status_of(Phase.UP), 4.0)
    assert (tracker.since(PROD), tracker.reconnects(PROD)) == (4.0, 0)
