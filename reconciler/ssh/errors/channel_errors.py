"""Translates exceptions of channels into a `Failure`, and into the reply code for SOCKS clients.

`connect_errors` does the same for connections, and `listen_errors` for listeners. Input: the exception, and the address
it is about.
"""

from __future__ import annotations

import socket

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.errors.forwarding import UNKNOWN_SERVER, Kind, ServerFacts, forbidden
from reconciler.ssh.errors.patterns import (
    EXHAUSTED,
    SAYS_CLOSED,
    SAYS_NO_NETWORK,
    SAYS_NO_ROUTE,
    SAYS_REFUSED,
    SAYS_TIMEOUT,
    SAYS_UNKNOWN_NAME,
    exhausted,
    printable,
)

_NO_REASON = ("", "open failed")

# --- channels ---------------------------------------------------------------------------------------------------


def from_channel_open(exc: BaseException, destination: str, server: ServerFacts = UNKNOWN_SERVER) -> Failure:
    """The failure of a connection to the destination, dialled by `server` or (OSError) by this process."""
    match exc:
        case ServerSilent():
            what = f"the SSH server sent nothing while {destination} was dialled"
            return Failure(Reason.TIMEOUT, what, "check the network, and whether the server hangs")
        case TimeoutError():
            what = f"{destination} did not answer in time"
            return Failure(Reason.DESTINATION, what, "check that the service runs, and the firewalls in front of it")
        case asyncssh.ChannelOpenError():
            return _channel_refused(exc, destination, server)
        case asyncssh.DisconnectError():
            return from_lost(exc)
        case OSError():
            return _not_reached_from_here(exc, destination)
        case _:
            what = f"connecting to {destination} failed ({type(exc).__name__}: {printable(str(exc))})"
            return Failure(Reason.INTERNAL, what)


def _not_reached_from_here(exc: OSError, destination: str) -> Failure:
    if isinstance(exc, socket.gaierror):
        what = f"cannot resolve the name in {destination} on this machine"
        return Failure(Reason.DESTINATION, what, "check the name and the resolver")
    if exc.errno in EXHAUSTED:
        return exhausted(exc.errno or 0)
    if isinstance(exc, ConnectionRefusedError):
        what = f"{destination} refuses connections"
        return Failure(Reason.DESTINATION, what, "start the service there, or correct the address")
    if isinstance(exc, FileNotFoundError):
        what = f"there is no socket {destination} on this machine"
        return Failure(Reason.DESTINATION, what, "start the service there, or correct the path")
    what = f"cannot connect to {destination} ({printable(exc.strerror or str(exc))})"
    fix = "check the address and the network"
    if destination.startswith("/"):
        fix = "check that it is a socket, and that this process may write to it and enter its directory"
    return Failure(Reason.DESTINATION, what, fix)


def _channel_refused(exc: asyncssh.ChannelOpenError, destination: str, server: ServerFacts) -> Failure:
    text = printable(exc.reason)
    is_unix = destination.startswith("/")
    if SAYS_CLOSED.search(exc.reason):
        return Failure(Reason.CLOSED_BY_SERVER, f"the SSH connection was lost while {destination} was dialled")
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        what = f"the SSH server does not allow connections to {destination}"
        return forbidden(what, server, Kind.CONNECT_UNIX if is_unix else Kind.CONNECT)
    if is_unix and exc.code == asyncssh.OPEN_CONNECT_FAILED and exc.reason in _NO_REASON:
        return _unix_not_reached(destination, server)
    if exc.code == asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE:
        what = f"the SSH server does not support this kind of forward, to {destination}"
        return Failure(Reason.FORBIDDEN_BY_SERVER, what, "use a server that supports it")
    if exc.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        what = f"the SSH server has no resources for a connection to {destination} ({text})"
        return Failure(Reason.RESOURCES, what, "see the server's log")
    if SAYS_REFUSED.search(exc.reason):
        what = f"{destination} refuses connections from the SSH server"
        fix = "start the service there, or correct the address"
    elif SAYS_UNKNOWN_NAME.search(exc.reason):
        what = f"the SSH server cannot resolve the name in {destination}"
        fix = "correct the name, or check the resolver of the server"
    elif SAYS_TIMEOUT.search(exc.reason):
        what = f"{destination} does not answer the SSH server"
        fix = "check routes and firewalls on the server's side"
    else:
        what = f"the SSH server cannot connect to {destination} ({text or 'no reason given'})"
        fix = "check the address, and routes and firewalls on the server's side"
    return Failure(Reason.DESTINATION, what, fix)


def _unix_not_reached(path: str, server: ServerFacts) -> Failure:
    """The failure for an answer that OpenSSH gives whether it forbids unix sockets or cannot connect to this one."""
    if server.forbidding() is not None:
        return forbidden(f"the SSH server does not allow connections to {path}", server, Kind.CONNECT_UNIX)
    what = f"the SSH server does not connect to {path} and does not say why"
    check = (
        f"check that it is a socket, that a service listens on it and that {server.user or 'the login'} may write to it"
    )
    return Failure(Reason.DESTINATION, what, f"{check}; then see {server.settings(Kind.CONNECT_UNIX)}")


_SOCKS_GENERAL, _SOCKS_FORBIDDEN, _SOCKS_NETWORK, _SOCKS_HOST, _SOCKS_REFUSED = 1, 2, 3, 4, 5


def socks_reply(exc: BaseException) -> int:
    """The SOCKS5 reply code (RFC 1928 section 6). Only the server's text tells refused from unreachable."""
    match exc:
        case TimeoutError():
            return _SOCKS_HOST
        case asyncssh.ChannelOpenError() if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return _SOCKS_FORBIDDEN
        case asyncssh.ChannelOpenError() if exc.code == asyncssh.OPEN_CONNECT_FAILED:
            for words, code in (
                (SAYS_CLOSED, _SOCKS_GENERAL),
                (SAYS_REFUSED, _SOCKS_REFUSED),
                (SAYS_NO_NETWORK, _SOCKS_NETWORK),
                (SAYS_NO_ROUTE, _SOCKS_HOST),
                (SAYS_UNKNOWN_NAME, _SOCKS_HOST),
                (SAYS_TIMEOUT, _SOCKS_HOST),
            ):
                if words.search(exc.reason):
                    return code
            return _SOCKS_GENERAL
        case _:
            return _SOCKS_GENERAL
