"""How an attempt to dial can end: how far it came, what to do about it, and which failure of several tells most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from reconciler.core.observed import Failure, Reason


class Stage(IntEnum):
    """How far a dial came."""

    CONNECT = 0  # TCP, a channel through a jump host, or the proxy command
    BANNER = 1
    KEX = 2
    LOGIN = 3


class DialFailed(Exception):  # noqa: N818 - what the loop knows it as
    """No connection: `failure` says why, `stage` where. None: before anything was dialled, among our own files."""

    def __init__(self, failure: Failure, stage: Stage | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.stage = stage


class ServerSilent(TimeoutError):  # noqa: N818 - as above
    """A channel was not opened in time, and the server did not say anything else either: it is not the destination."""


# --- what to do about it ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FailureWithFix(Failure):
    """A failure that knows better than its reason what to do about it."""

    fix: str


def advised(reason: Reason, happened: str, fix: str) -> FailureWithFix:
    """One whose sentence ends with what to do."""
    return FailureWithFix(reason, f"{happened}: {fix}", fix)


def fix_of(failure: Failure) -> str:
    """What to do about it."""
    return failure.fix if isinstance(failure, FailureWithFix) else _FIX[failure.reason]


_FIX = {
    Reason.DNS: "correct the name, or the resolver of the machine that looks it up",
    Reason.REFUSED: "start the SSH server there, or correct host and port",
    Reason.UNREACHABLE: "check routes, VPN and firewalls on the way",
    Reason.TIMEOUT: "check the firewalls on the way: somebody drops packets without a word",
    Reason.SERVER_BUSY: "the server takes no more logins at the moment: see MaxStartups and PerSourcePenalties there",
    Reason.HOST_KEY: "compare the key with the server's; `tunnels trust` prints the `hostKeys` to paste",
    Reason.AUTH: "correct user or key here, or authorized_keys on the server",
    Reason.CERTIFICATE_EXPIRED: "have a new certificate signed",
    Reason.SECRET_UNREADABLE: "put the secret there, readable, or name another place; a changed file is tried at once",
    Reason.PROTOCOL: "compare `algorithms` with what the server offers",
    Reason.KEEPALIVE: "check the network, and whether the server hangs",
    Reason.CLOSED_BY_SERVER: "see the server's log: it ended the connection",
    Reason.BIND: "correct the address, or allow this process to listen there",
    Reason.LOCAL_PORT_IN_USE: "stop what listens there, or choose another port",
    Reason.REMOTE_PORT_IN_USE: "free the port on the server, or choose another; see PermitListen there",
    Reason.FORBIDDEN_BY_SERVER: "allow it on the server: AllowTcpForwarding, PermitOpen, PermitListen",
    Reason.DESTINATION: "start the destination, or correct its address",
    Reason.PROBE: "see the destination's log; correct `health` if the probe asks for the wrong thing",
    Reason.RESOURCES: "make room: raise the limit that the sentence names",
    Reason.INTERNAL: "report it, with this process's log",
}


# --- which one to tell ------------------------------------------------------------------------------------------

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
