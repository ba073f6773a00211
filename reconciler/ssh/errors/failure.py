"""The failure of a dial: the stage it reached, and which failure of several hosts is shown."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from reconciler.core.observed import Failure, Reason


class Stage(IntEnum):
    """How far a dial got."""

    CONNECT = 0  # TCP, a channel through a jump host, or the proxy command
    BANNER = 1
    KEX = 2
    LOGIN = 3


class DialFailed(Exception):  # noqa: N818 - an outcome that callers expect, not a programming error
    """A dial that made no connection.

    failure   the reason
    stage     how far the dial got; None if it failed on files of this machine, before anything was dialled
    """

    def __init__(self, failure: Failure, stage: Stage | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.stage = stage


class UnreadableSecretError(DialFailed):
    """A credential could not be read from its source (file or variable)."""


class ServerSilent(TimeoutError):  # noqa: N818 - as above
    """A channel was not opened in time, and the server sent nothing else either: the destination is not the cause."""


# The reasons by how far the dial got, least first. Of the failures of several hosts, the last in this order is shown
# and sets the backoff. Reasons with guarded backoff (core/backoff.py) come last, so that a host that refuses the login
# is not dialled every 200 ms because another host is down.
_BY_PROGRESS = (
    Reason.DNS,
    Reason.UNREACHABLE,
    Reason.REFUSED,
    Reason.TIMEOUT,
    Reason.SERVER_BUSY,
    Reason.CLOSED_BY_SERVER,
    Reason.KEEPALIVE,
    Reason.INTERNAL,
    Reason.RESOURCES,
    Reason.FORBIDDEN_BY_SERVER,
    Reason.PROTOCOL,
    Reason.SECRET_UNREADABLE,
    Reason.CERTIFICATE_EXPIRED,
    Reason.AUTH,
    Reason.HOST_KEY,
)


def most_significant(failures: Iterable[Failure]) -> Failure:
    """The failure to show for several hosts that were tried in turn: the first of those that got furthest."""
    return max(failures, key=lambda one: _BY_PROGRESS.index(one.reason) if one.reason in _BY_PROGRESS else 0)
