"""Translates exceptions of asyncssh and the operating system into a `Failure`, for connections that fail or are lost.

Input: the exception, and where it was raised. Output: a reason from the closed set (docs/contract.md), what happened,
and what to do. Text that came from a server is escaped and cut. `channel_errors` translates for channels and listeners.
"""

from __future__ import annotations

import errno
import os
import re
import socket

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.ssh.errors.failure import DialFailed, Stage
from reconciler.ssh.errors.forwarding import UNKNOWN_SERVER, Kind, ServerFacts, forbidden
from reconciler.ssh.errors.patterns import (
    EXHAUSTED,
    FILTERED,
    NO_ROUTE,
    SAYS_CLOSED,
    SAYS_REFUSED,
    SAYS_TIMEOUT,
    SAYS_TOO_MANY_TRIES,
    SAYS_UNKNOWN_NAME,
    exhausted,
    printable,
)
from reconciler.system import tcp

# --- dialling ---------------------------------------------------------------------------------------------------


def from_dial(
    exc: BaseException,
    where: str,
    stage: Stage = Stage.CONNECT,
    seconds: float = 0.0,
    jump_host: ServerFacts = UNKNOWN_SERVER,
) -> Failure:
    """The failure of a dial. `where` names the hop; `seconds` was its time limit; `jump_host` is the hop before it."""
    match exc:
        case DialFailed():
            return exc.failure
        case TimeoutError():
            return _timed_out(where, stage, seconds)
        case asyncssh.ChannelOpenError():
            return _hop_not_reached(exc, where, jump_host)
        case asyncssh.PermissionDenied() | asyncssh.IllegalUserName():
            return Failure(Reason.AUTH, f"{where} refused the login")
        case asyncssh.HostKeyNotVerifiable():
            return Failure(Reason.HOST_KEY, f"the host key of {where} is refused ({printable(exc.reason)})")
        case asyncssh.ConnectionLost() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return _closed(where, stage)
        case asyncssh.KeyExchangeFailed():
            return Failure(Reason.PROTOCOL, f"the key exchange with {where} failed ({printable(exc.reason)})")
        case asyncssh.DisconnectError():
            return _disconnected(exc, where, stage)
        case OSError():
            return _not_connected(exc, where)
        case _:
            return _unexpected(exc, where, "dialling")


# The version of a server fits into a small packet. The packets of the key exchange may need a full-size one.
_LARGE_PACKETS = (
    "the path may drop full-size packets: lower the MTU of the network interface here, or set a short list such as "
    "`algorithms: {kex: [curve25519-sha256]}`; or the server hangs: check its load"
)


def _timed_out(where: str, stage: Stage, seconds: float) -> Failure:
    limit = f"{round(seconds, 1) or seconds:g} s" if seconds else "the time limit"
    what, fix = {
        Stage.CONNECT: (f"did not answer within {limit}", "check its address, the route and the firewalls"),
        Stage.BANNER: (
            f"accepted the connection but sent nothing within {limit}",
            "check that an SSH server listens there and does not hang",
        ),
        Stage.KEX: (
            f"sent its version, then hung in the key exchange for {limit}",
            _LARGE_PACKETS,
        ),
        Stage.LOGIN: (
            f"did not finish the login within {limit}",
            "raise `connectTimeout` if its login takes longer, or see the server's log",
        ),
    }[stage]
    return Failure(Reason.TIMEOUT, f"{where} {what}", fix)


def _closed(where: str, stage: Stage) -> Failure:
    match stage:
        case Stage.CONNECT | Stage.BANNER:
            fix = (
                "it accepts no more logins now (MaxStartups, PerSourcePenalties in its sshd_config), or it is a load "
                "balancer or port forward without a server behind it: wait, or see their logs"
            )
            return Failure(Reason.SERVER_BUSY, f"{where} closed the connection before its banner", fix)
        case Stage.KEX:
            what = f"{where} closed the connection in the key exchange"
            return Failure(Reason.CLOSED_BY_SERVER, what, "see the server's log")
        case Stage.LOGIN:
            # Not "closed by server": that is retried every 200 ms, and this may be the answer to a wrong key.
            what = f"{where} closed the connection during the login"
            return Failure(Reason.SERVER_BUSY, what, "see the server's log")


def _disconnected(exc: asyncssh.DisconnectError, where: str, stage: Stage) -> Failure:
    text = printable(exc.reason)
    if SAYS_TOO_MANY_TRIES.search(exc.reason):
        fix = "configure only the key that it accepts (a .pub file selects it from the agent)"
        return Failure(Reason.AUTH, f"{where} gave up after too many refused keys", fix)
    if stage is Stage.LOGIN and re.search(r"auth|login|denied|permitted", exc.reason, re.IGNORECASE):
        return Failure(Reason.AUTH, f"{where} refused the login ({text})")
    if isinstance(exc, asyncssh.ServiceNotAvailable) or exc.code == asyncssh.DISC_TOO_MANY_CONNECTIONS:
        return Failure(Reason.SERVER_BUSY, f"{where} accepts no more connections now ({text})")
    if isinstance(exc, asyncssh.ProtocolError | asyncssh.ProtocolNotSupported | asyncssh.MACError):
        return Failure(Reason.PROTOCOL, f"{where} sent an invalid SSH message ({text})")
    return Failure(Reason.CLOSED_BY_SERVER, f"{where} disconnected ({text})")


def _not_connected(exc: OSError, where: str) -> Failure:
    if isinstance(exc, tcp.NoAddressError):
        protocol, why = exc.outbound.reachable.protocol, printable(exc.strerror or str(exc))
        what = f"cannot resolve the name of {where} to an {protocol} address ({why})"
        return Failure(Reason.DNS, what, f"check the name and the resolver, or change {exc.outbound.reason}")
    if isinstance(exc, tcp.LocalAddressError):
        why = printable(exc.strerror or str(exc))
        if exc.errno == errno.EADDRNOTAVAIL:
            why = "this machine has no such address"
        what = f"cannot connect to {where} from {exc.address} ({why})"
        fix = "correct `bindAddress`, or bring up the interface that has the address"
        return Failure(Reason.UNREACHABLE, what, fix)
    if isinstance(exc, socket.gaierror):
        why = printable(exc.strerror or str(exc))
        return Failure(Reason.DNS, f"cannot resolve the name of {where} ({why})", "check the name and the resolver")
    # If several addresses failed with different errors, they are raised as one error without a number that quotes all.
    codes = {exc.errno} if exc.errno else {int(code) for code in re.findall(r"\[Errno (\d+)\]", str(exc))}
    if codes & EXHAUSTED:
        return exhausted(next(iter(codes & EXHAUSTED)))
    if errno.ECONNREFUSED in codes:
        fix = "start the SSH server, correct `host` or `port`, or check the firewalls"
        return Failure(Reason.REFUSED, f"{where} refuses connections", fix)
    if errno.ETIMEDOUT in codes:
        return _timed_out(where, Stage.CONNECT, 0.0)
    if codes & (NO_ROUTE | FILTERED):
        why = os.strerror(next(iter(codes & (NO_ROUTE | FILTERED))))
        fix = "check the network, the VPN and the local firewall"
        return Failure(Reason.UNREACHABLE, f"cannot reach {where} ({why})", fix)
    return Failure(Reason.UNREACHABLE, f"cannot connect to {where} ({printable(str(exc))})")


def _hop_not_reached(exc: asyncssh.ChannelOpenError, where: str, jump_host: ServerFacts) -> Failure:
    """The failure for a jump host that could not, or would not, connect to `where`."""
    text = printable(exc.reason)
    if SAYS_CLOSED.search(exc.reason):
        return Failure(Reason.CLOSED_BY_SERVER, f"the jump host before {where} closed its connection", "see its log")
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return forbidden(f"the jump host does not allow a connection to {where}", jump_host, Kind.CONNECT)
    if exc.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        what = f"the jump host has no resources for a connection to {where} ({text})"
        return Failure(Reason.SERVER_BUSY, what, "see the log of the jump host")
    reasons = (
        (SAYS_REFUSED, Reason.REFUSED, "start the SSH server, or correct `host` and `port`"),
        (SAYS_UNKNOWN_NAME, Reason.DNS, "correct the name, or check the resolver of the jump host"),
        (SAYS_TIMEOUT, Reason.TIMEOUT, "check routes and firewalls behind the jump host"),
    )
    what = f"the jump host cannot connect to {where} ({text})"
    for words, reason, fix in reasons:
        if words.search(exc.reason):
            return Failure(reason, what, fix)
    return Failure(Reason.UNREACHABLE, what, "check routes and firewalls behind the jump host")


# --- a link that was up -----------------------------------------------------------------------------------------


def from_lost(exc: Exception | None, where: str = "", *, answers: bool = True) -> Failure:
    """The failure for a connection that was up and is lost. `exc` is None if the server closed it without an error.

    `answers`: False if the server never answered a request for the whole connection, such as a keepalive.
    """
    where = where or "the SSH server"
    match exc:
        case None:
            return Failure(Reason.CLOSED_BY_SERVER, f"{where} closed the connection")
        case asyncssh.ConnectionLost() if "keepalive" in exc.reason and not answers:
            what = f"{where} sent nothing, and has never answered a keepalive request"
            fix = "check the network; if it supports no such requests, set `keepaliveInterval: 0s`"
            return Failure(Reason.KEEPALIVE, what, fix)
        case asyncssh.ConnectionLost() if "keepalive" in exc.reason:
            return Failure(Reason.KEEPALIVE, f"{where} stopped answering")
        case asyncssh.ConnectionLost() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            what = f"{where} closed the connection without notice"
            fix = "check whether the server was restarted, or a firewall cut the connection"
            return Failure(Reason.CLOSED_BY_SERVER, what, fix)
        case (
            asyncssh.ProtocolError()
            | asyncssh.MACError()
            | asyncssh.KeyExchangeFailed()
            | asyncssh.CompressionError()
            | asyncssh.HostKeyNotVerifiable()
        ):
            what = f"{where} violated the SSH protocol ({printable(exc.reason)})"
            return Failure(Reason.PROTOCOL, what, "update the server, or report this to its maker")
        case asyncssh.DisconnectError():
            return Failure(Reason.CLOSED_BY_SERVER, f"{where} closed the connection ({printable(exc.reason)})")
        case TimeoutError():  # from the kernel, for data that was not acknowledged (TCP_USER_TIMEOUT)
            return Failure(Reason.KEEPALIVE, f"{where} stopped acknowledging data")
        case OSError() if exc.errno in NO_ROUTE:
            return Failure(Reason.UNREACHABLE, f"{where} cannot be reached any more ({os.strerror(exc.errno or 0)})")
        case OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection to {where} broke ({printable(str(exc))})")
        case _:
            return _unexpected(exc, where, "the connection to")


# --- bytes that are not SSH -------------------------------------------------------------------------------------


def raised_by_asyncssh(exc: BaseException) -> bool:
    """Return True if asyncssh failed on what a server sent, rather than in a callback of this program.

    asyncssh decodes packets without checking everything first: a wrong length may raise an IndexError.
    """
    ours = theirs = -1
    traceback, depth = exc.__traceback__, 0
    while traceback is not None:
        package = str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0]
        ours, theirs = (depth if package == "reconciler" else ours), (depth if package == "asyncssh" else theirs)
        traceback, depth = traceback.tb_next, depth + 1
    return theirs > ours


def _unexpected(exc: BaseException, where: str, what: str) -> Failure:
    text = f"{type(exc).__name__}: {printable(str(exc))}"
    if raised_by_asyncssh(exc):
        return Failure(Reason.PROTOCOL, f"{where} violated the SSH protocol: a packet cannot be decoded ({text})")
    return Failure(Reason.INTERNAL, f"{what} {where} failed ({text})")
