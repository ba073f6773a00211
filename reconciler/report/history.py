"""The last hour of each tunnel: how long it was up in each minute, its losses and reconnects, and its last failures.

Owns one record for each tunnel: a ring of `MINUTES` minutes and the last `FAILURES` failures, with messages of at most
`MESSAGE_MAX` characters. A record takes 0.8 KB without failures and 7 KB at most, so 1,000 tunnels take 0.8 to 7 MB.
Input: the changes of each pass. Output: `TunnelHistory`. Times are Unix time. A pass costs nothing for a tunnel that
did not change: the time in its phase is added at its next change, and when its history is requested.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Verdict
from reconciler.report.changes import Change
from reconciler.report.snapshot import NOT_EXPECTED_UP

MINUTES = 60
FAILURES = 8
MESSAGE_MAX = 500  # characters
# Seconds between two passes after which the process must have been stopped: a pass runs every few seconds.
GAP = 30.0

_MINUTE = 60.0  # seconds
_COUNT_MAX = 65_535  # of an array of type "H"
_CLOSING = NOT_EXPECTED_UP | {Phase.DRAINING}


# The numbers of one minute: milliseconds in each state, and counts. Plain integers: a pass may record thousands.
_UP, _DOWN, _OFF, _LOSSES, _RECONNECTS = range(5)
_NUMBERS = 5
_EMPTY = array("H", [0] * (_NUMBERS * MINUTES))


@dataclass(frozen=True, slots=True)
class PastFailure:
    """A failure that occurred `count` times in a row, at `first` and at `last`. `message`: that of the last time."""

    first: float
    last: float
    count: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class TunnelHistory:
    """The history of one tunnel. The tuples have a number for each minute, oldest first; the last one is the present.

    since             when the first minute began
    up, down, off     seconds of the minute. Less than a minute together: the process did not run, or the minute lasts
    losses            how often it left `up` without being turned off
    reconnects        how often it returned to `up` after the first time
    failures          its last failures, newest first
    """

    since: float
    up: tuple[float, ...]
    down: tuple[float, ...]
    off: tuple[float, ...]
    losses: tuple[int, ...]
    reconnects: tuple[int, ...]
    failures: tuple[PastFailure, ...]


class Histories:
    """The histories of all tunnels. A tunnel without a phase has none."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._passed = 0.0

    def update(self, changes: Iterable[Change], wall: float) -> None:
        """Add the changes of a pass. The state between two passes is that after the first one."""
        if not -GAP < wall - self._passed < GAP:  # the process was stopped, or the clock was set
            for record in self._records.values():
                record.skip(self._passed, wall)
        self._passed = wall
        for change in changes:
            if change.subject.tunnel is None:
                continue
            if change.verdict is None:
                self._records.pop(change.subject.name, None)
                continue
            if change.subject.name not in self._records:
                self._records[change.subject.name] = _Record(change.at)
            self._records[change.subject.name].add(change, change.verdict)

    def get(self, tunnel: str, wall: float) -> TunnelHistory | None:
        """Return the history of a tunnel, None if it has none."""
        record = self._records.get(tunnel)
        if record is None:
            return None
        record.record(min(wall, self._passed + GAP))  # without a pass for longer, the present state is not known
        return record.history(wall)


class _Record:
    __slots__ = ("_failures", "_minute", "_numbers", "_state", "_until", "_was_up")

    def __init__(self, wall: float) -> None:
        self._numbers = _EMPTY[:]  # the ring: a minute is at its number modulo MINUTES
        self._minute = _minute_of(wall)  # the latest minute in the ring
        self._until = wall  # the ring is complete up to this time
        self._state = _OFF
        self._was_up = False
        self._failures: tuple[PastFailure, ...] = ()  # oldest first

    def add(self, change: Change, verdict: Verdict) -> None:
        self.record(change.at)
        self._state = _state_of(verdict.phase)
        if verdict.phase is not change.before:
            if change.before is Phase.UP and self._state is _DOWN:
                self._count(change.at, _LOSSES)
            if verdict.phase is Phase.UP and self._was_up:
                self._count(change.at, _RECONNECTS)
        self._was_up |= verdict.phase is Phase.UP
        if verdict.reason is not None:
            self._fail(change.at, verdict.reason, verdict.message)

    def record(self, until: float) -> None:
        """Add the time in the present state up to `until`, minute by minute."""
        at = max(self._until, until - MINUTES * _MINUTE)
        while at < until:
            minute = _minute_of(at)
            end = min(until, (minute + 1) * _MINUTE)
            self._add(minute, self._state, round((end - at) * 1000))
            at = end
        self._until = max(self._until, until)

    def skip(self, known: float, wall: float) -> None:
        """Leave out the time from `known`. If `wall` is earlier, the clock was set back: nothing has a time then."""
        self.record(known)
        if wall < known:
            self._numbers = _EMPTY[:]
            self._minute = _minute_of(wall)
        self._until = wall

    def history(self, wall: float) -> TunnelHistory:
        self._enter(_minute_of(wall))
        first = self._minute - MINUTES + 1
        minutes = range(first, self._minute + 1)

        def numbers(field: int) -> tuple[int, ...]:
            return tuple(self._numbers[_position(minute) + field] for minute in minutes)

        def seconds(field: int) -> tuple[float, ...]:
            return tuple(number / 1000 for number in numbers(field))

        return TunnelHistory(
            since=first * _MINUTE,
            up=seconds(_UP),
            down=seconds(_DOWN),
            off=seconds(_OFF),
            losses=numbers(_LOSSES),
            reconnects=numbers(_RECONNECTS),
            failures=self._failures[::-1],
        )

    def _count(self, at: float, field: int) -> None:
        self._add(_minute_of(at), field, 1)

    def _add(self, minute: int, field: int, number: int) -> None:
        position = self._enter(minute) + field
        self._numbers[position] = min(self._numbers[position] + number, _COUNT_MAX)

    def _enter(self, minute: int) -> int:
        """Move on to a minute, and return the position of its numbers. The ring never moves back."""
        if minute - self._minute >= MINUTES:
            self._numbers = _EMPTY[:]
            self._minute = minute
        while self._minute < minute:
            self._minute += 1
            position = _position(self._minute)
            self._numbers[position : position + _NUMBERS] = _EMPTY[:_NUMBERS]
        return _position(self._minute)

    def _fail(self, at: float, reason: Reason, message: str) -> None:
        shown = message if len(message) <= MESSAGE_MAX else f"{message[: MESSAGE_MAX - 3]}..."
        match self._failures:
            case (*others, last) if last.reason is reason:
                self._failures = (*others, replace(last, last=at, count=last.count + 1, message=shown))
            case others:
                self._failures = (*others, PastFailure(at, at, 1, reason, shown))[-FAILURES:]


def _minute_of(wall: float) -> int:
    return int(wall // _MINUTE)


def _position(minute: int) -> int:
    return minute % MINUTES * _NUMBERS


def _state_of(phase: Phase) -> int:
    if phase is Phase.UP:
        return _UP
    return _OFF if phase in _CLOSING else _DOWN
