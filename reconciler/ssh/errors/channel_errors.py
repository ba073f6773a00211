"""Why a client's channel or a listener did not come about: exceptions -> a `Failure`, as `failures` does for links.

In: what was raised, and for which address. Out: a reason and a sentence; for SOCKS clients the reply code.
"""

from __future__ import annotations

import errno
import socket

import asyncssh

from reconciler.core.descriptor_budget import NoRoomError
from reconciler.core.observed import Failure, Reason
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.errors.failure import FailureWithFix, ServerSilent, advised
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

# --- channels ---------------------------------------------------------------------------------------------------


def from_channel_open(exc: BaseException, destination: str) -> Failure:
    """Why a client could not be connected to the destination, dialled from the server or (OSError) from here."""
    match exc:
        case ServerSilent():
            text = f"the SSH server said nothing while {destination} was dialled: the network is dead, or it hangs"
            return Failure(Reason.TIMEOUT, text)
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
        case OSError() if exc.errno in EXHAUSTED:
            return exhausted(exc.errno or 0)
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
    if SAYS_CLOSED.search(exc.reason):
        return Failure(Reason.CLOSED_BY_SERVER, f"the SSH connection was lost while {destination} was dialled")
    if exc.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        text = f"the SSH server forbids connections to {destination}: see AllowTcpForwarding and PermitOpen there"
        return Failure(Reason.FORBIDDEN_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE:
        text = f"the SSH server has no way to {destination}: too old for this kind of forward, or built without it"
        return Failure(Reason.FORBIDDEN_BY_SERVER, text)
    if exc.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        return Failure(Reason.RESOURCES, f"the SSH server has no room for a connection to {destination} ({said})")
    if SAYS_REFUSED.search(exc.reason):
        text = f"{destination} refuses connections, seen from the SSH server: does anything listen there?"
    elif SAYS_UNKNOWN_NAME.search(exc.reason):
        text = f"the SSH server cannot resolve the name in {destination}: names are looked up on its side"
    elif SAYS_TIMEOUT.search(exc.reason):
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
    """Why nothing listens at `address`. `said` is what the server's debug messages said meanwhile, if anything."""
    return _local_listen(exc, address) if local else _remote_listen(exc, address, said, why)


def _local_listen(exc: BaseException, address: str) -> Failure:
    if not isinstance(exc, OSError):
        return Failure(Reason.INTERNAL, f"cannot listen on {address}: {type(exc).__name__}: {printable(str(exc))}")
    if isinstance(exc, NoRoomError):
        return Failure(Reason.RESOURCES, exc.sentence)
    if exc.errno in EXHAUSTED:
        return exhausted(exc.errno or 0)
    if exc.errno == errno.EADDRINUSE:
        return _taken(address)
    if isinstance(exc, socket.gaierror):
        return Failure(Reason.BIND, f"cannot listen on {address}: the name is not resolved here")
    if exc.errno == errno.EADDRNOTAVAIL:
        return Failure(Reason.BIND, f"cannot listen on {address}: this machine has no such address")
    if exc.errno in FILTERED:
        port = address.rpartition(":")[2]
        low = port.isdigit() and int(port) < 1024
        hint = "a port below 1024 needs root or CAP_NET_BIND_SERVICE" if low else "check the permissions of the place"
        return Failure(Reason.BIND, f"may not listen on {address}: {hint}")
    return Failure(Reason.BIND, f"cannot listen on {address}: {printable(exc.strerror or str(exc))}")


def _taken(address: str) -> Failure:
    holder = owner_of_port(address)
    if holder is None:
        still = "no program listens on it: an earlier or outgoing connection still has it; it is tried again"
        fix = "wait, or choose a port that is given to no outgoing connection (net.ipv4.ip_local_port_range)"
        return FailureWithFix(Reason.LOCAL_PORT_IN_USE, f"{address} is in use, but {still}", fix)
    another = "path" if address.startswith("/") else "port"
    happened = f"{address} is in use by {holder or 'another program'}"
    return advised(Reason.LOCAL_PORT_IN_USE, happened, f"stop it, or choose another {another}")


def _remote_listen(exc: BaseException, address: str, said: str, why: str) -> Failure:
    match exc:
        case TimeoutError():
            return Failure(Reason.TIMEOUT, f"the SSH server did not answer the request to listen on {address}")
        case asyncssh.ChannelListenError() if why:
            text = f"the SSH server refuses to listen on {address}: it says `{printable(why)}`"
            return Failure(Reason.FORBIDDEN_BY_SERVER, text)
        case asyncssh.ChannelListenError() if SAYS_FORWARDING_IS_OFF.search(said):
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
        case asyncssh.ProtocolError():
            return from_lost(exc)
        case asyncssh.DisconnectError() | asyncssh.ChannelOpenError() | OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection was lost before the server listened on {address}")
        case _:
            text = f"asking the server to listen on {address} failed: {type(exc).__name__}: {printable(str(exc))}"
            return Failure(Reason.INTERNAL, text)
