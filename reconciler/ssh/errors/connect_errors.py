"""Why a connection did not come about, or is gone: exceptions of asyncssh and the operating system -> a `Failure`.

In: what was raised, and where. Out: a reason from the closed set (DESIGN section 5) and a sentence: what happened, what
it means, what to do. Text that came from a server is escaped and cut before it gets into a sentence. What a connection
carries has its causes in `refusals`.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.ssh.errors.failure import DialFailed, Stage, advised
from reconciler.ssh.errors.patterns import (
    EXHAUSTED,
    FILTERED,
    NO_ROUTE,
    SAYS_CLOSED,
    SAYS_REFUSED,
    SAYS_TIMEOUT,
    SAYS_UNKNOWN_NAME,
    exhausted,
    printable,
)

# --- dialling ---------------------------------------------------------------------------------------------------


def from_dial(exc: BaseException, where: str, stage: Stage = Stage.CONNECT, seconds: float = 0.0) -> Failure:
    """Why no connection came about. `where` names the hop; `seconds` was its time limit."""
    match exc:
        case DialFailed():
            return exc.failure
        case TimeoutError():
            return _timed_out(where, stage, seconds)
        case asyncssh.ChannelOpenError():
            return _hop_not_reached(exc, where)
        case asyncssh.PermissionDenied() | asyncssh.IllegalUserName():
            return Failure(Reason.AUTH, f"{where} refuses to log us in: check the user, and what is allowed there")
        case asyncssh.HostKeyNotVerifiable():
            return Failure(Reason.HOST_KEY, f"{where}: {printable(exc.reason)}")
        case asyncssh.ConnectionLost() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return _closed(where, stage)
        case asyncssh.KeyExchangeFailed():
            return _no_common_algorithm(exc, where)
        case asyncssh.DisconnectError():
            return _sent_away(exc, where, stage)
        case OSError():
            return _not_connected(exc, where)
        case _:
            return _unforeseen(exc, where, "dialling")


def _timed_out(where: str, stage: Stage, seconds: float) -> Failure:
    limit = f"{seconds:g} s" if seconds else "its time"
    happened, fix = {
        Stage.CONNECT: (f"did not answer within {limit}", "check its address, the route and the firewalls"),
        Stage.BANNER: (
            f"accepts connections but said nothing for {limit}",
            "see whether it hangs, or is no SSH server",
        ),
        Stage.KEX: (
            f"fell silent in the key exchange ({limit})",
            "see whether it is overloaded or large packets get lost",
        ),
        Stage.LOGIN: (f"did not finish the login within {limit}", "see in its log what it waits for"),
    }[stage]
    return advised(Reason.TIMEOUT, f"{where} {happened}", fix)


def _closed(where: str, stage: Stage) -> Failure:
    match stage:
        case Stage.CONNECT | Stage.BANNER:
            text = "closed the connection before its banner: too many logins at once (MaxStartups), or it bans us"
            return Failure(Reason.SERVER_BUSY, f"{where} {text}")
        case Stage.KEX:
            return Failure(
                Reason.CLOSED_BY_SERVER, f"{where} closed the connection in the key exchange: its log says why"
            )
        case Stage.LOGIN:
            # Not "closed by server": that is retried every 200 ms, and this may be the answer to a wrong key.
            return advised(Reason.SERVER_BUSY, f"{where} closed the connection during the login", "see in its log why")


def _no_common_algorithm(exc: asyncssh.KeyExchangeFailed, where: str) -> Failure:
    # No regular expression: what the server offers stands in it, as long as a packet may be, before we know who it is.
    kind, found, lists = exc.reason.removeprefix("No matching ").partition(" algorithm found, sent ")
    _, both, theirs = lists.partition(" and received ")
    if not found or not both:
        return Failure(Reason.PROTOCOL, f"the key exchange with {where} failed: {printable(exc.reason)}")
    return no_common(kind, theirs.split(","), where)


def no_common(kind: str, theirs: Iterable[str], where: str) -> Failure:
    """Nothing in both offers. `kind` is asyncssh's word for what was negotiated."""
    field = {"key exchange": "kex", "encryption": "cipher", "MAC": "mac", "host key": "hostKey"}.get(kind, kind)
    offers = printable(", ".join(theirs))
    return Failure(
        Reason.PROTOCOL, f"{where} shares no {kind} algorithm with us; it offers {offers}: set algorithms.{field}"
    )


def _sent_away(exc: asyncssh.DisconnectError, where: str, stage: Stage) -> Failure:
    said = printable(exc.reason)
    if "too many authentication failures" in exc.reason.lower():
        text = "gave up after too many refused keys: name the right one alone (a .pub picks it from the agent)"
        return Failure(Reason.AUTH, f"{where} {text}")
    if stage is Stage.LOGIN and re.search(r"auth|login|denied|permitted", exc.reason, re.IGNORECASE):
        return Failure(Reason.AUTH, f"{where} refuses the login: {said}")
    if isinstance(exc, asyncssh.ServiceNotAvailable) or exc.code == asyncssh.DISC_TOO_MANY_CONNECTIONS:
        return Failure(Reason.SERVER_BUSY, f"{where} takes no more connections now: {said}")
    if isinstance(exc, asyncssh.ProtocolError | asyncssh.ProtocolNotSupported | asyncssh.MACError):
        return Failure(Reason.PROTOCOL, f"{where} does not speak SSH as we do: {said}")
    return Failure(Reason.CLOSED_BY_SERVER, f"{where} sent us away: {said}")


def _not_connected(exc: OSError, where: str) -> Failure:
    if isinstance(exc, socket.gaierror):
        why = printable(exc.strerror or str(exc))
        return Failure(Reason.DNS, f"the name of {where} is not resolved ({why}): check it, and the resolver")
    # Several addresses that failed differently come as one error without a number, which quotes them all.
    codes = {exc.errno} if exc.errno else {int(code) for code in re.findall(r"\[Errno (\d+)\]", str(exc))}
    if codes & EXHAUSTED:
        return exhausted(next(iter(codes & EXHAUSTED)))
    if errno.ECONNREFUSED in codes:
        return Failure(Reason.REFUSED, f"{where} refuses connections: nothing listens there, or a firewall says no")
    if errno.ETIMEDOUT in codes:
        return _timed_out(where, Stage.CONNECT, 0.0)
    if codes & (NO_ROUTE | FILTERED):
        why = os.strerror(next(iter(codes & (NO_ROUTE | FILTERED))))
        return Failure(Reason.UNREACHABLE, f"no way to {where} ({why}): check the network, VPN and local firewall")
    return Failure(Reason.UNREACHABLE, f"connecting to {where} failed: {printable(str(exc))}")


def _hop_not_reached(exc: asyncssh.ChannelOpenError, where: str) -> Failure:
    """The jump host before `where` could not, or would not, connect to it."""
    said = printable(exc.reason)
    if SAYS_CLOSED.search(exc.reason):
        text = f"the jump host before {where} closed its connection: its log says why"
        return Failure(Reason.CLOSED_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        text = f"the jump host may not connect to {where} ({said}): see AllowTcpForwarding and PermitOpen there"
        return Failure(Reason.FORBIDDEN_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        return Failure(Reason.SERVER_BUSY, f"the jump host has no room for a connection to {where} ({said})")
    reasons = (
        (SAYS_REFUSED, Reason.REFUSED, "is nothing listening there?"),
        (SAYS_UNKNOWN_NAME, Reason.DNS, "names are looked up on the jump host"),
        (SAYS_TIMEOUT, Reason.TIMEOUT, "check routes and firewalls behind the jump host"),
    )
    for words, reason, hint in reasons:
        if words.search(exc.reason):
            return Failure(reason, f"the jump host cannot connect to {where} ({said}): {hint}")
    return Failure(Reason.UNREACHABLE, f"the jump host cannot connect to {where} ({said})")


# --- a link that was up -----------------------------------------------------------------------------------------


def from_lost(exc: Exception | None, where: str = "") -> Failure:
    """Why a connection that was up is gone. None: the server said goodbye."""
    where = where or "the SSH server"
    match exc:
        case None:
            return Failure(Reason.CLOSED_BY_SERVER, f"{where} ended the connection")
        case asyncssh.ConnectionLost() if "keepalive" in exc.reason:
            return Failure(Reason.KEEPALIVE, f"{where} stopped answering: the network between is dead, or it hangs")
        case asyncssh.ConnectionLost() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return Failure(
                Reason.CLOSED_BY_SERVER, f"{where} closed the connection: restarted, killed, or cut by a firewall"
            )
        case (
            asyncssh.ProtocolError()
            | asyncssh.MACError()
            | asyncssh.KeyExchangeFailed()
            | asyncssh.CompressionError()
            | asyncssh.HostKeyNotVerifiable()
        ):
            return Failure(Reason.PROTOCOL, f"{where} broke the SSH protocol: {printable(exc.reason)}")
        case asyncssh.DisconnectError():
            return Failure(Reason.CLOSED_BY_SERVER, f"{where} ended the connection: {printable(exc.reason)}")
        case TimeoutError():  # the kernel's, of a transport that was not acknowledged (TCP_USER_TIMEOUT)
            return Failure(Reason.KEEPALIVE, f"{where} stopped acknowledging data: the network between is dead")
        case OSError() if exc.errno in NO_ROUTE:
            return Failure(Reason.UNREACHABLE, f"{where} cannot be reached any more: {os.strerror(exc.errno or 0)}")
        case OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection to {where} broke: {printable(str(exc))}")
        case _:
            return _unforeseen(exc, where, "the connection to")


# --- bytes that are no SSH --------------------------------------------------------------------------------------


def raised_by_asyncssh(exc: BaseException) -> bool:
    """Whether asyncssh failed at what a server sent, rather than a callback of this program within it.

    asyncssh decodes packets without checking everything first: a length that is wrong may become an IndexError.
    """
    ours = theirs = -1
    traceback, depth = exc.__traceback__, 0
    while traceback is not None:
        package = str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0]
        ours, theirs = (depth if package == "reconciler" else ours), (depth if package == "asyncssh" else theirs)
        traceback, depth = traceback.tb_next, depth + 1
    return theirs > ours


def _unforeseen(exc: BaseException, where: str, what: str) -> Failure:
    text = f"{type(exc).__name__}: {printable(str(exc))}"
    if raised_by_asyncssh(exc):
        return Failure(Reason.PROTOCOL, f"{where} broke the SSH protocol: a packet cannot be decoded ({text})")
    return Failure(Reason.INTERNAL, f"{what} {where} failed: {text}")
