"""The one place where exceptions of asyncssh and the operating system become a `Failure`.

In: what was raised, and where. Out: a reason from the closed set (DESIGN section 5) and a sentence: what happened, what
it means, what to do. Text that came from a server is escaped and cut before it gets into a sentence.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable

import asyncssh

from reconciler.core.status import Failure, Reason
from reconciler.ssh.attempt import Advised, DialFailed, Stage, advised
from reconciler.ssh.holder import holder_of

TEXT_MAX = 120  # characters of foreign text in a sentence

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)
_FILTERED = frozenset({errno.EACCES, errno.EPERM})

# The server's words for why a channel was not opened: strerror and gai_strerror of many systems.
_SAYS_REFUSED = re.compile(r"refused|no such file", re.IGNORECASE)
_SAYS_UNKNOWN_NAME = re.compile(
    r"not known|name resolution|no address associated|nodename nor servname|unknown host|no such host|resolv",
    re.IGNORECASE,
)
_SAYS_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
_SAYS_NO_NETWORK = re.compile(r"network is unreachable|network unreachable", re.IGNORECASE)
_SAYS_NO_ROUTE = re.compile(r"no route|unreachable|host is down", re.IGNORECASE)
_SAYS_CLOSED = re.compile(r"^SSH connection closed", re.IGNORECASE)  # asyncssh's own words
_SAYS_FORWARDING_IS_OFF = re.compile(
    r"disabled (port|streamlocal) forwarding|forwarding (is )?(disabled|refused)", re.IGNORECASE
)


def printable(text: str) -> str:
    """Foreign text, fit for a sentence: no control characters, not too long."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: TEXT_MAX + 1])
    return escaped if len(escaped) <= TEXT_MAX else escaped[: TEXT_MAX - 1] + "…"


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
            return Failure(Reason.INTERNAL, f"dialling {where} failed: {type(exc).__name__}: {printable(str(exc))}")


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
    if codes & _EXHAUSTED:
        return _exhausted(next(iter(codes & _EXHAUSTED)))
    if errno.ECONNREFUSED in codes:
        return Failure(Reason.REFUSED, f"{where} refuses connections: nothing listens there, or a firewall says no")
    if errno.ETIMEDOUT in codes:
        return _timed_out(where, Stage.CONNECT, 0.0)
    if codes & (_NO_ROUTE | _FILTERED):
        why = os.strerror(next(iter(codes & (_NO_ROUTE | _FILTERED))))
        return Failure(Reason.UNREACHABLE, f"no way to {where} ({why}): check the network, VPN and local firewall")
    return Failure(Reason.UNREACHABLE, f"connecting to {where} failed: {printable(str(exc))}")


def _hop_not_reached(exc: asyncssh.ChannelOpenError, where: str) -> Failure:
    """The jump host before `where` could not, or would not, connect to it."""
    said = printable(exc.reason)
    if _SAYS_CLOSED.search(exc.reason):
        text = f"the jump host before {where} closed its connection: its log says why"
        return Failure(Reason.CLOSED_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        text = f"the jump host may not connect to {where} ({said}): see AllowTcpForwarding and PermitOpen there"
        return Failure(Reason.FORBIDDEN_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        return Failure(Reason.SERVER_BUSY, f"the jump host has no room for a connection to {where} ({said})")
    reasons = (
        (_SAYS_REFUSED, Reason.REFUSED, "is nothing listening there?"),
        (_SAYS_UNKNOWN_NAME, Reason.DNS, "names are looked up on the jump host"),
        (_SAYS_TIMEOUT, Reason.TIMEOUT, "check routes and firewalls behind the jump host"),
    )
    for words, reason, hint in reasons:
        if words.search(exc.reason):
            return Failure(reason, f"the jump host cannot connect to {where} ({said}): {hint}")
    return Failure(Reason.UNREACHABLE, f"the jump host cannot connect to {where} ({said})")


def _exhausted(code: int) -> Failure:
    hint = "raise the limit of open files (ulimit -n)" if code in (errno.EMFILE, errno.ENFILE) else "the system is full"
    return Failure(Reason.RESOURCES, f"{os.strerror(code)}: {hint}")


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
        case asyncssh.ProtocolError() | asyncssh.MACError() | asyncssh.KeyExchangeFailed():
            return Failure(Reason.PROTOCOL, f"{where} broke the SSH protocol: {printable(exc.reason)}")
        case asyncssh.DisconnectError():
            return Failure(Reason.CLOSED_BY_SERVER, f"{where} ended the connection: {printable(exc.reason)}")
        case TimeoutError():  # the kernel's, of a transport that was not acknowledged (TCP_USER_TIMEOUT)
            return Failure(Reason.KEEPALIVE, f"{where} stopped acknowledging data: the network between is dead")
        case OSError() if exc.errno in _NO_ROUTE:
            return Failure(Reason.UNREACHABLE, f"{where} cannot be reached any more: {os.strerror(exc.errno or 0)}")
        case OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection to {where} broke: {printable(str(exc))}")
        case _:
            return Failure(
                Reason.INTERNAL, f"the connection to {where} failed: {type(exc).__name__}: {printable(str(exc))}"
            )


# --- channels ---------------------------------------------------------------------------------------------------


def from_channel_open(exc: BaseException, destination: str) -> Failure:
    """Why a client could not be connected to the destination, dialled from the server or (OSError) from here."""
    match exc:
        case TimeoutError():
            text = f"{destination} did not answer in time: check that it runs, and the firewalls before it"
            return Failure(Reason.DESTINATION, text)
        case asyncssh.ChannelOpenError():
            return _channel_refused(exc, destination)
        case asyncssh.DisconnectError():
            return from_lost(exc)
        case socket.gaierror():
            text = f"the name in {destination} is not resolved here: check it, and the resolver"
            return Failure(Reason.DESTINATION, text)
        case OSError() if exc.errno in _EXHAUSTED:
            return _exhausted(exc.errno or 0)
        case ConnectionRefusedError() | FileNotFoundError():
            return Failure(Reason.DESTINATION, f"{destination} refuses connections: nothing listens there")
        case OSError():
            return Failure(
                Reason.DESTINATION, f"{destination} cannot be reached: {printable(exc.strerror or str(exc))}"
            )
        case _:
            text = f"connecting to {destination} failed: {type(exc).__name__}: {printable(str(exc))}"
            return Failure(Reason.INTERNAL, text)


def _channel_refused(exc: asyncssh.ChannelOpenError, destination: str) -> Failure:
    said = printable(exc.reason)
    if _SAYS_CLOSED.search(exc.reason):
        return Failure(Reason.CLOSED_BY_SERVER, f"the SSH connection was lost while {destination} was dialled")
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        text = f"the SSH server forbids connections to {destination}: see AllowTcpForwarding and PermitOpen there"
        return Failure(Reason.FORBIDDEN_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE:
        text = f"the SSH server has no way to {destination}: too old for this kind of forward, or built without it"
        return Failure(Reason.FORBIDDEN_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        return Failure(Reason.RESOURCES, f"the SSH server has no room for a connection to {destination} ({said})")
    if _SAYS_REFUSED.search(exc.reason):
        text = f"{destination} refuses connections, seen from the SSH server: does anything listen there?"
    elif _SAYS_UNKNOWN_NAME.search(exc.reason):
        text = f"the SSH server cannot resolve the name in {destination}: names are looked up on its side"
    elif _SAYS_TIMEOUT.search(exc.reason):
        text = f"{destination} does not answer the SSH server: check routes and firewalls on its side"
    else:
        text = f"the SSH server cannot connect to {destination}: {said or 'it does not say why'}"
    return Failure(Reason.DESTINATION, text)


_SOCKS_GENERAL, _SOCKS_FORBIDDEN, _SOCKS_NETWORK, _SOCKS_HOST, _SOCKS_REFUSED = 1, 2, 3, 4, 5


def socks_reply(exc: BaseException) -> int:
    """The SOCKS5 reply code (RFC 1928 section 6). Refused and unreachable differ in the server's words only."""
    match exc:
        case TimeoutError():
            return _SOCKS_HOST
        case asyncssh.ChannelOpenError() if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return _SOCKS_FORBIDDEN
        case asyncssh.ChannelOpenError() if exc.code == asyncssh.OPEN_CONNECT_FAILED:
            for words, code in (
                (_SAYS_CLOSED, _SOCKS_GENERAL),
                (_SAYS_REFUSED, _SOCKS_REFUSED),
                (_SAYS_NO_NETWORK, _SOCKS_NETWORK),
                (_SAYS_NO_ROUTE, _SOCKS_HOST),
                (_SAYS_UNKNOWN_NAME, _SOCKS_HOST),
                (_SAYS_TIMEOUT, _SOCKS_HOST),
            ):
                if words.search(exc.reason):
                    return code
            return _SOCKS_GENERAL
        case _:
            return _SOCKS_GENERAL


# --- listeners --------------------------------------------------------------------------------------------------


def from_listen(exc: BaseException, address: str, *, local: bool, said: str = "") -> Failure:
    """Why nothing listens at `address`. `said` is what the server's debug messages said meanwhile, if anything."""
    return _local_listen(exc, address) if local else _remote_listen(exc, address, said)


def _local_listen(exc: BaseException, address: str) -> Failure:
    if not isinstance(exc, OSError):
        return Failure(Reason.INTERNAL, f"cannot listen on {address}: {type(exc).__name__}: {printable(str(exc))}")
    if exc.errno in _EXHAUSTED:
        return _exhausted(exc.errno or 0)
    if exc.errno == errno.EADDRINUSE:
        return _taken(address)
    if isinstance(exc, socket.gaierror):
        return Failure(Reason.BIND, f"cannot listen on {address}: the name is not resolved here")
    if exc.errno == errno.EADDRNOTAVAIL:
        return Failure(Reason.BIND, f"cannot listen on {address}: this machine has no such address")
    if exc.errno in _FILTERED:
        port = address.rpartition(":")[2]
        low = port.isdigit() and int(port) < 1024
        hint = "a port below 1024 needs root or CAP_NET_BIND_SERVICE" if low else "check the permissions of the place"
        return Failure(Reason.BIND, f"may not listen on {address}: {hint}")
    return Failure(Reason.BIND, f"cannot listen on {address}: {printable(exc.strerror or str(exc))}")


def _taken(address: str) -> Failure:
    holder = holder_of(address)
    if holder is None:
        still = "no program listens on it: an earlier or outgoing connection still has it; it is tried again"
        fix = "wait, or choose a port that is given to no outgoing connection (net.ipv4.ip_local_port_range)"
        return Advised(Reason.LOCAL_PORT_IN_USE, f"{address} is in use, but {still}", fix)
    another = "path" if address.startswith("/") else "port"
    happened = f"{address} is in use by {holder or 'another program'}"
    return advised(Reason.LOCAL_PORT_IN_USE, happened, f"stop it, or choose another {another}")


def _remote_listen(exc: BaseException, address: str, said: str) -> Failure:
    match exc:
        case TimeoutError():
            return Failure(Reason.TIMEOUT, f"the SSH server did not answer the request to listen on {address}")
        case asyncssh.ChannelListenError() if _SAYS_FORWARDING_IS_OFF.search(said):
            hint = "see AllowTcpForwarding and PermitListen there; ports below 1024 need root"
            if address.startswith("/"):
                hint = "see AllowStreamLocalForwarding there"
            return Failure(Reason.FORBIDDEN_BY_SERVER, f"the SSH server forbids listening on {address}: {hint}")
        case asyncssh.ChannelListenError() if address.startswith("/"):
            hint = (
                "the file is there, perhaps left by an earlier connection (sshd replaces it with StreamLocalBindUnlink)"
            )
            return Failure(Reason.REMOTE_PORT_IN_USE, f"the SSH server refuses to listen on {address}: {hint}")
        case asyncssh.ChannelListenError():
            hint = "the port is in use there, or not allowed (PermitListen)"
            return Failure(Reason.REMOTE_PORT_IN_USE, f"the SSH server refuses to listen on {address}: {hint}")
        case asyncssh.DisconnectError() | asyncssh.ChannelOpenError() | OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection was lost before the server listened on {address}")
        case _:
            text = f"asking the server to listen on {address} failed: {type(exc).__name__}: {printable(str(exc))}"
            return Failure(Reason.INTERNAL, text)
