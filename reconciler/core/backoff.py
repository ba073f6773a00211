"""Failures -> the time of the next try (DESIGN section 5). Pure: jitter comes from the name, not from a die.

Three classes of failure:
  quick    the server is away and will be back (a restart): hurry for the first 10 s, and while a client waits
  guarded  a person must act, and servers ban guessers: minutes, unless a file that was read has changed
  slow     everything else: the configured backoff, never hurried
"""

from __future__ import annotations

import zlib

from reconciler.core.observed import Failure, Reason, Tries
from reconciler.core.spec import Access, Reconnect

QUICK = frozenset({Reason.REFUSED, Reason.UNREACHABLE, Reason.CLOSED_BY_SERVER, Reason.KEEPALIVE})
GUARDED = frozenset({Reason.AUTH, Reason.HOST_KEY, Reason.CERTIFICATE_EXPIRED})

HURRY_FOR = 10.0  # of an outage, quick failures are retried...
HURRY = 0.2  # ...at most this far apart
PATIENCE = 0.1  # later they wait at most this share of the outage, which so ends a tenth later at most
HELD = 2.0  # while a client is held, quick failures are retried at least this often
GUARDED_INITIAL, GUARDED_MAX = 60.0, 900.0
SOCKET_RETRY = 1.0  # a taken port may be free at any moment, and asking costs nothing
SOCKET_FORBIDDEN_MAX = 60.0
FAULT_INITIAL, FAULT_MAX = 0.25, 30.0
SOCKET_NO_ROOM_MAX = 5.0  # without descriptors there may be thousands of listeners to try
WELL_AFTER = 10.0  # a link up this long starts the next outage afresh
AT_ONCE_AFTER = 1.0  # a link that lived this long is tried again at once when lost,
AT_ONCE_LOSSES = 16  # and so are the first short-lived ones of an outage: a restarted server kills a few sessions


def failed(previous: Tries | None, failure: Failure, now: float, access: Access | None, fingerprint: str) -> Tries:
    """The record after one more failed try."""
    if previous is None or previous.access != access:
        return Tries(1, failure, now, now, False, access, fingerprint)
    return Tries(previous.failures + 1, failure, now, previous.since, False, access, fingerprint)


def lost(
    previous: Tries | None, failure: Failure, now: float, up_for: float, access: Access, fingerprint: str
) -> Tries:
    """The record after a ready link was lost, `up_for` seconds after it came up.

    One that was well starts a new outage; one that keeps coming and going goes on with the old one's count, so that
    a server which accepts and drops us is not hammered.
    """
    if up_for >= WELL_AFTER or previous is None or previous.access != access:
        return Tries(0, failure, now, now, True, access, fingerprint)
    at_once = up_for >= AT_ONCE_AFTER or previous.failures < AT_ONCE_LOSSES
    return Tries(previous.failures + 1, failure, now, previous.since, at_once, access, fingerprint)


def is_over(tries: Tries, up_since: float, now: float) -> bool:
    """Whether a link up since then ends this outage: it came after the last failure and has stayed long enough.

    Until then the record is kept: the counters of a link that comes and goes survive its being up for a moment.
    """
    return tries.at <= up_since and now - up_since >= WELL_AFTER


def next_link_try(tries: Tries, reconnect: Reconnect, name: str, held: bool, fingerprint: str) -> float:
    """When to dial again (monotonic): `held` if a client waits, `fingerprint` the present state of the files."""
    if tries.at_once:
        return tries.at
    reason = tries.last.reason
    if fingerprint != tries.fingerprint and (reason in GUARDED or reason is Reason.SECRET_UNREADABLE):
        return tries.at
    delay = _grown(reconnect.initial, reconnect.factor, tries.failures, reconnect.max)
    if reason in GUARDED:
        delay = _grown(GUARDED_INITIAL, 2.0, tries.failures, GUARDED_MAX)
    elif reason in QUICK:
        age = tries.at - tries.since
        # The hurried tries count too: without the second bound the wait would jump from HURRY to the maximum.
        delay = min(delay, HURRY if age < HURRY_FOR else age * PATIENCE)
        if held:
            delay = min(delay, HELD)
    return tries.at + delay * _jitter(name, tries.failures)


def next_socket_try(tries: Tries, name: str) -> float:
    """When to try to listen again (monotonic)."""
    match tries.last.reason:
        case Reason.FORBIDDEN_BY_SERVER:
            delay = _grown(SOCKET_RETRY, 2.0, tries.failures, SOCKET_FORBIDDEN_MAX)
            return tries.at + delay * _jitter(name, tries.failures)
        case Reason.RESOURCES:  # without jitter: thousands are tried in one pass rather than in hundreds
            return tries.at + _grown(SOCKET_RETRY, 2.0, tries.failures, SOCKET_NO_ROOM_MAX)
        case _:
            return tries.at + SOCKET_RETRY


def next_fault_try(tries: Tries) -> float:
    """When to carry out again (monotonic) what a fault of this program kept from being carried out."""
    return tries.at + _grown(FAULT_INITIAL, 2.0, tries.failures, FAULT_MAX)


def _grown(initial: float, factor: float, failures: int, limit: float) -> float:
    # The exponent is bounded so that a tunnel down for a month does not overflow a float.
    return min(limit, initial * factor ** min(max(failures - 1, 0), 64))


def _jitter(name: str, failures: int) -> float:
    """0.8 to 1.0: never later than promised, and different for each target and each try."""
    return 0.8 + 0.2 * (zlib.crc32(f"{name}/{failures}".encode()) % 1024) / 1024
