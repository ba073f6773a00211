"""The events of the Python API: their conversion, and what a slow reader misses."""

from __future__ import annotations

from reconciler.api.events import EventLog, EventsLost, EventStream, Notice, NoticeKind, PhaseChanged
from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Verdict
from reconciler.core.subject import Subject
from reconciler.report.changes import Change
from reconciler.report.events import KEPT, Event


def paused(number: int) -> Event:
    return Event(float(number), Subject("tunnel", "prod/db"), "paused")


async def test_a_slow_reader_is_told_how_many_events_it_lost() -> None:
    log = EventLog()
    slow = EventStream(log, within=0.0)
    for number in range(KEPT + 5):
        log.add(paused(number))
    late = EventStream(log, within=0.0)
    read = [event async for event in slow]
    assert read[0] == EventsLost(5)
    assert read[1:] == [Notice(float(number), "prod/db", NoticeKind.PAUSED, "") for number in range(5, KEPT + 5)]
    assert [event async for event in late] == []
    log.add(paused(9))
    assert [event async for event in slow] == [event async for event in late]


async def test_events_are_read_after_the_end() -> None:
    log = EventLog()
    stream = EventStream(log, within=None)
    log.add(paused(1))
    log.ring.close()
    assert len([event async for event in stream]) == 1


def test_an_event_is_a_line_of_text() -> None:
    down = Change(Subject("tunnel", "prod/db"), Phase.UP, Verdict(Phase.DOWN, Reason.REFUSED, "no"), "127.0.0.1:1", 1.0)
    assert str(PhaseChanged.of(down)) == "prod/db: down (refused): no"
    up = Change(Subject("target", "prod"), None, Verdict(Phase.UP), "host:22", 1.0)
    assert str(PhaseChanged.of(up)) == "prod: up: host:22"
    assert str(PhaseChanged.of(Change(Subject("target", "prod"), Phase.UP, None, "", 1.0))) == "prod: removed"
    assert str(Notice(1.0, "prod/db", NoticeKind.CUT, "1 client")) == "prod/db: cut: 1 client"
    assert str(EventsLost(3)) == "events: 3 lost"


def test_each_word_of_the_engine_has_a_notice() -> None:
    """The planner's events of clients, and the operations of the engine."""
    words = ("restarted", "paused", "resumed", "draining", "revived", "cut")
    assert [NoticeKind(word) for word in words] == list(NoticeKind)
