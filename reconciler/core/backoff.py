"""Backoff: the time of the next try after failures (docs/architecture.md, "Failure model").

Pure: jitter is computed from the name, not from a random number. Three classes of failure:
  quick    the server is down for now, as in a restart: short delays for the first 10 s and while a client waits
  guarded  a person must act, and servers ban clients that guess: minutes, unless a credential or trust file changed
  slow     everything else: the configured backoff, never shortened
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.observed import Failure, Now, Reason, Tries
from reconciler.core.spec import Access, Reconnect

QUICK = frozenset({Reason.REFUSED, Reason.UNREACHABLE, Reason.CLOSED_BY_SERVER, Reason.KEEPALIVE})
GUARDED = frozenset({Reason.AUTH, Reason.HOST_KEY, Reason.CERTIFICATE_EXPIRED})

# In the first QUICK_FOR seconds of an outage, the delay after a quick failure is at most QUICK_MAX seconds. Later it is
# at most QUICK_SHARE of the age of the outage, so that the return of the server is noticed at most a tenth later.
QUICK_FOR, QUICK_MAX, QUICK_SHARE = 10.0, 0.2, 0.1
HELD_MAX = 2.0  # seconds; the longest delay after a quick failure while a client is held
GUARDED_INITIAL, GUARDED_MAX = 60.0, 900.0
SOCKET_RETRY = 1.0  # a taken port may be free at any moment, and a try is cheap
SOCKET_FORBIDDEN_MAX = 60.0
FAULT_INITIAL, FAULT_MAX = 0.25, 30.0
SOCKET_NO_ROOM_MAX = 5.0  # without free descriptors there may be thousands of listeners to retry
STABLE_AFTER = 10.0  # seconds; after a link was up this long, its loss starts a new outage
# A lost link is dialled again at once if it was up for AT_ONCE_AFTER seconds, or if the outage has had fewer than
# AT_ONCE_LOSSES failures: a restarting server drops a few sessions.
AT_ONCE_AFTER, AT_ONCE_LOSSES = 1.0, 16


class Wait(StrEnum):
    """What sets the time of the next try (docs/contract.md, "Status")."""

    AT_ONCE = "at_once"
    QUICK = "quick"
    GUARDED = "guarded"
    RECONNECT = "reconnect"
    CERTIFICATE = "certificate"
    LISTENER = "listener"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class NextTry:
    """When the next try is due (monotonic), and what sets that time."""

    at: float
    wait: Wait


def failed(previous: Tries | None, failure: Failure, now: float, access: Access | None, fingerprint: str) -> Tries:
    """Return the record after one more failed try."""
    if previous is None or previous.access != access:
        return Tries(1, failure, now, now, False, access, fingerprint)
    return Tries(previous.failures + 1, failure, now, previous.since, False, access, fingerprint)


def lost(
    previous: Tries | None, failure: Failure, now: float, up_for: float, access: Access, fingerprint: str
) -> Tries:
    """Return the record after a ready link was lost, `up_for` seconds after it came up.

    A link that was up for STABLE_AFTER starts a new outage. A link that was up for less continues the count of the old
    outage, so that a server that accepts and drops connections is not dialled at a high rate.
    """
    if up_for >= STABLE_AFTER or previous is None or previous.access != access:
        return Tries(0, failure, now, now, True, access, fingerprint)
    at_once = up_for >= AT_ONCE_AFTER or previous.failures < AT_ONCE_LOSSES
    return Tries(previous.failures + 1, failure, now, previous.since, at_once, access, fingerprint)


def is_over(tries: Tries, up_since: float, now: float) -> bool:
    """Return True if a link that came up at `up_since` ends the outage: it has been up for STABLE_AFTER.

    Until then the record is kept, so that a link which is up for a moment does not reset the count.
    """
    return tries.at <= up_since and now - up_since >= STABLE_AFTER


def next_link_try(tries: Tries, reconnect: Reconnect, name: str, held: bool, fingerprint: str) -> NextTry:
    """Return when to dial again.

    `held` is True if a client waits; `fingerprint` is the current state of the credential and trust files.
    """
    if tries.at_once:
        return NextTry(tries.at, Wait.AT_ONCE)
    reason = tries.last.reason
    if fingerprint != tries.fingerprint and (reason in GUARDED or reason is Reason.SECRET_UNREADABLE):
        return NextTry(tries.at, Wait.AT_ONCE)
    delay, wait = _grown(reconnect.initial, reconnect.factor, tries.failures, reconnect.max), Wait.RECONNECT
    if reason in GUARDED:
        wait = Wait.GUARDED
        delay = _grown(GUARDED_INITIAL, 2.0, tries.failures, GUARDED_MAX)
    elif reason in QUICK:
        wait = Wait.QUICK
        age = tries.at - tries.since
        # The tries of the first seconds count as failures too: without the bound by age, the configured delay after
        # them would be the longest one.
        delay = min(delay, QUICK_MAX if age < QUICK_FOR else age * QUICK_SHARE)
        if held:
            delay = min(delay, HELD_MAX)
    return NextTry(tries.at + delay * _jitter(name, tries.failures), wait)


def next_dial(tries: Tries, reconnect: Reconnect, name: str, held: bool, fingerprint: str, now: Now) -> NextTry:
    """Return when to dial again: by `next_link_try`, or sooner if the failure ends by itself."""
    due, ends_at = next_link_try(tries, reconnect, name, held, fingerprint), tries.last.ends_at
    if ends_at is None:
        return due
    valid = now.mono + ends_at - now.wall
    return NextTry(valid, Wait.CERTIFICATE) if valid < due.at else due


def next_socket_try(tries: Tries, name: str) -> float:
    """Return when to try to listen again (monotonic)."""
    match tries.last.reason:
        case Reason.FORBIDDEN_BY_SERVER:
            delay = _grown(SOCKET_RETRY, 2.0, tries.failures, SOCKET_FORBIDDEN_MAX)
            return tries.at + delay * _jitter(name, tries.failures)
        case Reason.RESOURCES:  # without jitter: thousands of sockets are retried in one pass, not in a pass each
            return tries.at + _grown(SOCKET_RETRY, 2.0, tries.failures, SOCKET_NO_ROOM_MAX)
        case _:
            return tries.at + SOCKET_RETRY


def next_fault_try(tries: Tries) -> float:
    """Return when to retry an action that raised an internal error (monotonic)."""
    return tries.at + _grown(FAULT_INITIAL, 2.0, tries.failures, FAULT_MAX)


def _grown(initial: float, factor: float, failures: int, limit: float) -> float:
    # The exponent is bounded so that a tunnel down for a month does not overflow a float.
    return min(limit, initial * factor ** min(max(failures - 1, 0), 64))


def _jitter(name: str, failures: int) -> float:
    """Return a factor from 0.8 to 1.0, different for each target and try. It never lengthens the delay."""
    return 0.8 + 0.2 * (zlib.crc32(f"{name}/{failures}".encode()) % 1024) / 1024
