"""The journal: what counts as a change, since when a phase lasts, and how often a thing came back."""

from __future__ import annotations

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Status, TargetStatus, Verdict
from reconciler.report.changes import Change, ChangeTracker

REFUSED = Verdict(Phase.DOWN, Reason.REFUSED, "nobody is there")


def judged(phase: Phase | Verdict, host: str = "") -> Status:
    verdict = phase if isinstance(phase, Verdict) else Verdict(phase)
    return Status((TargetStatus("prod", verdict, host, ()),), ())


def sentences(changes: list[Change]) -> list[str]:
    return [change.sentence() for change in changes]


def test_nothing_new_is_no_change() -> None:
    journal = ChangeTracker()
    assert sentences(journal.note(judged(Phase.UP, "a:22"), 1.0)) == ["target prod is up: a:22"]
    assert journal.note(judged(Phase.UP, "a:22"), 2.0) == []
    assert journal.since("target prod") == 1.0


def test_another_reason_is_a_change_but_the_phase_lasts() -> None:
    journal = ChangeTracker()
    journal.note(judged(REFUSED), 1.0)
    [change] = journal.note(judged(Verdict(Phase.DOWN, Reason.DNS, "no such name")), 2.0)
    assert change.sentence() == "target prod is down (dns): no such name"
    assert change.before is Phase.DOWN
    assert change.is_trouble
    assert journal.since("target prod") == 1.0


def test_another_host_is_a_change() -> None:
    journal = ChangeTracker()
    journal.note(judged(Phase.UP, "a:22"), 1.0)
    assert sentences(journal.note(judged(Phase.UP, "b:22"), 2.0)) == ["target prod is up: b:22"]
    assert journal.since("target prod") == 1.0


def test_a_host_that_the_message_names_is_not_named_twice() -> None:
    [change] = ChangeTracker().note(judged(Verdict(Phase.UP, message="on b:22, host 2 of 2"), "b:22"), 1.0)
    assert change.sentence() == "target prod is up: on b:22, host 2 of 2"


def test_a_new_connection_that_cannot_be_made_is_a_trouble_of_what_is_up() -> None:
    journal = ChangeTracker()
    journal.note(judged(Phase.UP, "a:22"), 1.0)
    [change] = journal.note(judged(Verdict(Phase.UP, Reason.AUTH, "the old one goes on"), "a:22"), 2.0)
    assert change.sentence() == "target prod is up (auth): a:22: the old one goes on"
    assert change.is_trouble
    assert journal.since("target prod") == 1.0
    [change] = journal.note(judged(Phase.UP, "a:22"), 3.0)
    assert not change.is_trouble


def test_only_coming_back_is_a_reconnect() -> None:
    journal = ChangeTracker()
    for phase in (Phase.PENDING, Phase.CONNECTING, REFUSED, Phase.UP):
        journal.note(judged(phase), 1.0)
    assert journal.reconnects("target prod") == 0, "it was never up before"
    for phase in (REFUSED, Phase.CONNECTING, Phase.UP, Phase.OFF, Phase.UP):
        journal.note(judged(phase), 2.0)
    assert journal.reconnects("target prod") == 2


def test_what_is_gone_is_told_once_and_begins_anew() -> None:
    journal = ChangeTracker()
    journal.note(judged(Phase.UP), 1.0)
    journal.note(judged(REFUSED), 1.0)
    journal.note(judged(Phase.UP), 1.0)
    [gone] = journal.note(Status((), ()), 2.0)
    assert (gone.sentence(), gone.before, gone.is_trouble) == ("target prod is gone", Phase.UP, False)
    assert journal.note(Status((), ()), 3.0) == []
    journal.note(judged(Phase.UP), 4.0)
    assert (journal.since("target prod"), journal.reconnects("target prod")) == (4.0, 0)
