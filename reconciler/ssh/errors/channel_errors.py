"""Translates exceptions of channels and listeners into a `Failure`, and into the reply code for SOCKS clients.

`connect_errors` does the same for connections. Input: the exception, and the address it is about.
"""

from __future__ import annotations

import errno
import socket
from typing import TypeVar

import asyncssh

from reconciler.core.descriptor_budget import NoRoomError
from reconciler.core.observed import Failure, Reason
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.errors.patterns import (
    EXHAUSTED,
    FILTERED,
    SAYS_CLOSED,
    SAYS_FORWARDING_IS_OFF,
    SAYS_NO_NETWORK,
    SAYS_NO_ROUTE,
    SAYS_REFUSED,
    SAYS_TIMEOUT,
    SAYS_UNKNOWN_NAME,
    exhausted,
    printable,
)
from reconciler.system.port_owner import owner_of_port

_Error = TypeVar("_Error", bound=BaseException | None)


class UncertifiedForwardError(asyncssh.ChannelOpenError):
    """The server does not allow a forward, because the certificate of the login does not. `why` names both."""

    def __init__(self, error: asyncssh.ChannelOpenError, why: str) -> None:
        super().__init__(error.code, error.reason, error.lang)
        self.why = why


def with_certificate(error: _Error, why: str) -> _Error | UncertifiedForwardError:
    """The error of a forward: another one, if the certificate of the login allows no forward (`why`)."""
    if why and isinstance(error, asyncssh.ChannelOpenError) and error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return UncertifiedForwardError(error, why)
    return error


def uncertified(what: str, why: str) -> Failure:
    """The failure of a forward that the certificate of the login does not allow."""
    return Failure(Reason.FORBIDDEN_BY_SERVER, f"{what}: {why}", "have one signed with permit-port-forwarding")


# --- channels ---------------------------------------------------------------------------------------------------


def from_channel_open(exc: BaseException, destination: str) -> Failure:
    """The failure of a connection to the destination, dialled by the server or (OSError) by this process."""
    match exc:
        case ServerSilent():
            what = f"the SSH server sent nothing while {destination} was dialled"
            return Failure(Reason.TIMEOUT, what, "check the network, and whether the server hangs")
        case TimeoutError():
            what = f"{destination} did not answer in time"
            return Failure(Reason.DESTINATION, what, "check that the service runs, and the firewalls in front of it")
        case UncertifiedForwardError():
            return uncertified(f"the SSH server does not allow connections to {destination}", exc.why)
        case asyncssh.ChannelOpenError():
            return _channel_refused(exc, destination)
        case asyncssh.DisconnectError():
            return from_lost(exc)
        case socket.gaierror():
            what = f"cannot resolve the name in {destination} on this machine"
            return Failure(Reason.DESTINATION, what, "check the name and the resolver")
        case OSError() if exc.errno in EXHAUSTED:
            return exhausted(exc.errno or 0)
        case ConnectionRefusedError() | FileNotFoundError():
            what = f"{destination} refuses connections"
            return Failure(Reason.DESTINATION, what, "start the service there, or correct the address")
        case OSError():
            what = f"cannot connect to {destination} ({printable(exc.strerror or str(exc))})"
            return Failure(Reason.DESTINATION, what, "check the address and the network")
        case _:
            what = f"connecting to {destination} failed ({type(exc).__name__}: {printable(str(exc))})"
            return Failure(Reason.INTERNAL, what)


def _channel_refused(exc: asyncssh.ChannelOpenError, destination: str) -> Failure:
    text = printable(exc.reason)
    if SAYS_CLOSED.search(exc.reason):
        return Failure(Reason.CLOSED_BY_SERVER, f"the SSH connection was lost while {destination} was dialled")
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        what = f"the SSH server does not allow connections to {destination}"
        return Failure(Reason.FORBIDDEN_BY_SERVER, what, "see AllowTcpForwarding and PermitOpen in its sshd_config")
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


# --- listeners --------------------------------------------------------------------------------------------------


def from_listen(exc: BaseException, address: str, *, local: bool, said: str = "", why: str = "") -> Failure:
    """The failure of a listener at `address`.

    said   debug messages that the server sent meanwhile
    why    the reason that a server gave with its refusal
    """
    return _local_listen(exc, address) if local else _remote_listen(exc, address, said, why)


def _local_listen(exc: BaseException, address: str) -> Failure:
    if not isinstance(exc, OSError):
        what = f"cannot listen on {address} ({type(exc).__name__}: {printable(str(exc))})"
        return Failure(Reason.INTERNAL, what)
    if isinstance(exc, NoRoomError):
        return exc.failure
    if exc.errno in EXHAUSTED:
        return exhausted(exc.errno or 0)
    if exc.errno == errno.EADDRINUSE:
        return _taken(address)
    if isinstance(exc, socket.gaierror):
        what = f"cannot listen on {address} (the name cannot be resolved on this machine)"
        return Failure(Reason.BIND, what, "correct the name, or the resolver")
    if exc.errno == errno.EADDRNOTAVAIL:
        what = f"cannot listen on {address} (this machine has no such address)"
        return Failure(Reason.BIND, what, "correct the address")
    if exc.errno in FILTERED:
        port = address.rpartition(":")[2]
        low = port.isdigit() and int(port) < 1024
        fix = "choose a port from 1024, or grant CAP_NET_BIND_SERVICE" if low else "check the permissions there"
        return Failure(Reason.BIND, f"not allowed to listen on {address}", fix)
    return Failure(Reason.BIND, f"cannot listen on {address} ({printable(exc.strerror or str(exc))})")


def _taken(address: str) -> Failure:
    holder = owner_of_port(address)
    if holder is None:
        what = f"{address} is in use by an earlier or outgoing connection; no program listens on it"
        fix = "wait for the next try, or choose a port outside net.ipv4.ip_local_port_range"
        return Failure(Reason.LOCAL_PORT_IN_USE, what, fix)
    another = "path" if address.startswith("/") else "port"
    what = f"{address} is in use by {holder or 'another program'}"
    return Failure(Reason.LOCAL_PORT_IN_USE, what, f"stop it, or choose another {another}")


def _remote_listen(exc: BaseException, address: str, said: str, why: str) -> Failure:
    refused = f"the SSH server refuses to listen on {address}"
    match exc:
        case TimeoutError():
            what = f"the SSH server did not answer the request to listen on {address}"
            return Failure(Reason.TIMEOUT, what, "check the network, and whether the server hangs")
        case asyncssh.ChannelListenError() if why:
            return Failure(Reason.FORBIDDEN_BY_SERVER, f"{refused} (`{printable(why)}`)")
        case asyncssh.ChannelListenError() if SAYS_FORWARDING_IS_OFF.search(said):
            fix = "see AllowTcpForwarding and PermitListen in its sshd_config; ports below 1024 need root"
            if address.startswith("/"):
                fix = "see AllowStreamLocalForwarding in its sshd_config"
            return Failure(Reason.FORBIDDEN_BY_SERVER, f"the SSH server does not allow listening on {address}", fix)
        case asyncssh.ChannelListenError() if address.startswith("/"):
            fix = "remove the file if an earlier connection left it, or set StreamLocalBindUnlink in its sshd_config"
            return Failure(Reason.REMOTE_PORT_IN_USE, f"{refused} (the file exists)", fix)
        case asyncssh.ChannelListenError():
            return Failure(Reason.REMOTE_PORT_IN_USE, f"{refused} (the port is in use there, or not allowed)")
        case asyncssh.ProtocolError():
            return from_lost(exc)
        case asyncssh.DisconnectError() | asyncssh.ChannelOpenError() | OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection was lost before the server listened on {address}")
        case _:
            what = f"the request to listen on {address} failed ({type(exc).__name__}: {printable(str(exc))})"
            return Failure(Reason.INTERNAL, what)
