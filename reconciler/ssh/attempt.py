"""How an attempt to dial can end: how far it came, and which failure of several tells most."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from reconciler.core.status import Failure, Reason


class DialFailed(Exception):  # noqa: N818 - what the loop knows it as
    """No connection: `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Stage(IntEnum):
    """How far a dial came."""

    CONNECT = 0  # TCP, a channel through a jump host, or the proxy command
    BANNER = 1
    KEX = 2
    LOGIN = 3


# How much a failure tells, least first: how far the dial came. Of the failures of several hosts the most telling one
# is shown. What a person must act on comes last, also because its slow backoff is then the one that holds: a host
# that refuses our login must not be asked again every 200 ms because another one is down.
_TELLING = (
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


def most_telling(failures: Iterable[Failure]) -> Failure:
    """The one to show for several hosts tried in turn; of equally telling ones the first."""
    return max(failures, key=lambda failure: _TELLING.index(failure.reason) if failure.reason in _TELLING else 0)
