"""Finds the likely cause if the connections of a target are lost at the same idle time or age, several times in a row.

A firewall that forgets idle connections, a load balancer with a timeout and a server with a limit cause such losses.
Each loss alone says only that the server closed the connection. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.core.observed import Failure, Reason

REPEATED = 3  # losses in a row
# Times are equal if they differ by at most so many seconds, or by this share of the longest.
SPREAD, SPREAD_SHARE = 0.5, 0.05
SHORTEST = 1.0  # seconds: a connection that ends sooner was not idle, and no server limits the age to less
KEEPALIVE_LONG = 30.0  # seconds: firewalls do not forget connections that were used more recently
FORGOTTEN_AFTER = 3.0  # a connection that lives this many times as long as the lost ones shows that the cause is gone


@dataclass(frozen=True, slots=True)
class Loss:
    """One lost connection.

    idle       seconds since the last bytes from the server
    age        seconds since the login
    keepalive  its keepalive interval, 0 for none
    """

    failure: Failure
    idle: float
    age: float
    keepalive: float


def pattern(losses: Sequence[Loss]) -> Failure | None:
    """Return the last failure with the likely cause of all losses, None if they have nothing in common."""
    if len(losses) < REPEATED:
        return None
    last = list(losses)[-REPEATED:]  # a deque has no slices
    if len({loss.failure.reason for loss in last}) > 1:
        return None
    match last[-1].failure.reason:
        case Reason.CLOSED_BY_SERVER:
            return _closed(last)
        case Reason.KEEPALIVE:
            return _silent(last)
        case _:
            return None


def is_over(losses: Sequence[Loss], age: float) -> bool:
    """Return True if a connection of that age shows that the losses no longer repeat."""
    return bool(losses) and age > FORGOTTEN_AFTER * max(SHORTEST, *(loss.age for loss in losses))


def _closed(losses: Sequence[Loss]) -> Failure | None:
    idle, age = [loss.idle for loss in losses], [loss.age for loss in losses]
    was_used = any(loss.age - loss.idle > SPREAD for loss in losses)
    if _are_equal(age) and was_used:
        what = f"its last {len(losses)} connections ended {_seconds(age)} after the login, used or not"
        fix = (
            "the server or a load balancer limits their age, or that without clients (UnusedConnectionTimeout): raise "
            "the limit there, or set `connect: onDemand`"
        )
        return _with(losses[-1].failure, what, fix)
    if not _are_equal(idle):
        return None
    what = f"its last {len(losses)} connections ended after {_seconds(idle)} without data"
    fix = (
        "a firewall, NAT or load balancer on the way drops idle connections, or the server does: set "
        f"`keepaliveInterval: {_shorter(min(idle))}`"
    )
    return _with(losses[-1].failure, what, fix)


def _silent(losses: Sequence[Loss]) -> Failure | None:
    """Return the cause of connections that stopped answering, each at the first keepalive after it was idle."""
    interval = losses[-1].keepalive
    if interval < KEEPALIVE_LONG:
        return None
    what = f"its last {len(losses)} connections stopped answering, and new ones answered"
    fix = (
        f"a firewall or NAT on the way may forget connections that are idle for less than {interval:g} s: set "
        f"`keepaliveInterval: {_shorter(interval)}`"
    )
    return _with(losses[-1].failure, what, fix)


def _with(failure: Failure, what: str, fix: str) -> Failure:
    return replace(failure, what=f"{failure.what}; {what}", fix=fix)


def _are_equal(seconds: Sequence[float]) -> bool:
    spread = max(SPREAD, SPREAD_SHARE * max(seconds))
    return min(seconds) >= SHORTEST and max(seconds) - min(seconds) <= spread


def _seconds(seconds: Sequence[float]) -> str:
    return f"about {max(seconds):.0f} s"


def _shorter(seconds: float) -> str:
    """Return a third of a duration, in the form of the file: one lost keepalive does not matter then."""
    third = seconds / 3
    return f"{math.floor(third)}s" if third >= 1 else f"{math.floor(third * 10) * 100}ms"
