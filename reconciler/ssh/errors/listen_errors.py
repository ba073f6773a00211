"""Translates the exceptions of listeners into a `Failure`: those of this machine, and those that a server refuses.

Input: the exception and the address. A server rarely says why it refuses. Then all causes that its answer allows are
named, the likeliest first.
"""

from __future__ import annotations

import errno
import re
import socket

import asyncssh

from reconciler.core.addresses import is_any, is_loopback
from reconciler.core.descriptor_budget import NoRoomError
from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import RemoteTcp, RemoteUnix
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.errors.forwarding import Kind, ServerFacts, forbidden
from reconciler.ssh.errors.patterns import EXHAUSTED, FILTERED, exhausted, printable
from reconciler.system.port_owner import owner_of_port

_PRIVILEGED = 1024  # sshd lets only root listen on a lower port
_HIGHER_PORT = f"choose a port from {_PRIVILEGED}"
_UNIX_PATH_MAX = 107  # bytes; unix(7)

# OpenSSH sends one of these before a refusal. The second one is about PermitListen and permitlisten=, or for a unix
# socket about AllowTcpForwarding.
_SAYS_DISABLED = re.compile(r"disabled (port|streamlocal) forwarding|forwarding (is )?disabled", re.IGNORECASE)
_SAYS_NOT_PERMITTED = re.compile(r"forwarding (is )?refused", re.IGNORECASE)


def from_local_listen(exc: BaseException, address: str) -> Failure:
    """The failure of a listener of this machine."""
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
        low = port.isdigit() and int(port) < _PRIVILEGED
        fix = f"{_HIGHER_PORT}, or grant CAP_NET_BIND_SERVICE" if low else "check the permissions there"
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


def from_remote_listen(
    exc: BaseException,
    listen: RemoteTcp | RemoteUnix,
    server: ServerFacts,
    *,
    said: str = "",
    why: str = "",
    supported: bool = True,
) -> Failure:
    """The failure of a listener on a server.

    said       debug messages that the server sent meanwhile
    why        the reason that it gave with its refusal
    supported  False if it does not know the request
    """
    match exc:
        case asyncssh.ChannelListenError() if not supported:
            what = f"the SSH server does not support remote forwards, such as {listen}"
            return Failure(Reason.FORBIDDEN_BY_SERVER, what, "use a server that supports them, such as OpenSSH")
        case TimeoutError():
            what = f"the SSH server did not answer the request to listen on {listen}"
            fix = "check whether the server supports remote forwards, and whether it hangs"
            return Failure(Reason.TIMEOUT, what, fix)
        case asyncssh.ChannelListenError() if why:
            what = f"the SSH server refuses to listen on {listen} (`{printable(why)}`)"
            return Failure(Reason.FORBIDDEN_BY_SERVER, what)
        case asyncssh.ChannelListenError():
            return _refused(listen, server, said)
        case asyncssh.ProtocolError():
            return from_lost(exc)
        case asyncssh.DisconnectError() | asyncssh.ChannelOpenError() | OSError():
            return Failure(Reason.CLOSED_BY_SERVER, f"the connection was lost before the server listened on {listen}")
        case _:
            what = f"the request to listen on {listen} failed ({type(exc).__name__}: {printable(str(exc))})"
            return Failure(Reason.INTERNAL, what)


def _refused(listen: RemoteTcp | RemoteUnix, server: ServerFacts, said: str) -> Failure:
    is_unix = isinstance(listen, RemoteUnix)
    kind = Kind.LISTEN_UNIX if is_unix else Kind.LISTEN
    what = f"the SSH server does not allow listening on {listen}"
    is_disabled, is_not_permitted = _SAYS_DISABLED.search(said), _SAYS_NOT_PERMITTED.search(said)
    if (is_disabled or is_not_permitted or not server.is_openssh) and server.forbidding() is not None:
        return forbidden(what, server, kind)
    if is_not_permitted:
        setting = "AllowTcpForwarding" if is_unix else "PermitListen"
        return Failure(Reason.FORBIDDEN_BY_SERVER, what, f"see {server.settings(kind, setting)}")
    if is_disabled:
        setting = "AllowStreamLocalForwarding" if is_unix else "AllowTcpForwarding"
        fix = f"see {server.settings(kind, setting, 'DisableForwarding')}"
        if isinstance(listen, RemoteTcp) and _needs_root(listen, server):
            fix = f"{_HIGHER_PORT}, as lower ones need a login as root; else {fix}"
        return Failure(Reason.FORBIDDEN_BY_SERVER, what, fix)
    return _unexplained_unix(listen, server) if isinstance(listen, RemoteUnix) else _unexplained(listen, server)


def _unexplained(listen: RemoteTcp, server: ServerFacts) -> Failure:
    """The failure for a refusal without a reason. OpenSSH gives one if it forbids the listener: binding failed."""
    refused = f"the SSH server refuses to listen on {listen}"
    if not server.is_openssh:
        settings = server.settings(Kind.LISTEN)
        if not listen.port:
            return Failure(Reason.FORBIDDEN_BY_SERVER, f"{refused} and does not say why", f"see {settings}")
        causes = [
            "the port is in use there",
            "it is not allowed",
            *["the address is not its own"] * _is_special(listen),
        ]
        fix = f"choose another port, or see {settings}"
        return Failure(Reason.REMOTE_PORT_IN_USE, f"{refused} ({_alternatives(causes)})", fix)
    if not listen.port:
        cause, fix = "no port is free there", "see the server's log"
        if _is_special(listen):
            cause, fix = f"the server has no address {listen.host}", "correct `remoteHost`"
        return Failure(Reason.BIND, f"{refused} ({cause})", fix)
    causes = ["the port is in use there", *[f"the server has no address {listen.host}"] * _is_special(listen)]
    fix = "free the port on the server, or choose another"
    if _is_special(listen):
        fix = f"{fix}, or correct `remoteHost`"
    if _needs_root(listen, server):
        causes.insert(0, f"ports below {_PRIVILEGED} need a login as root")
        fix = _HIGHER_PORT
    return Failure(Reason.REMOTE_PORT_IN_USE, f"{refused} ({_alternatives(causes)})", fix)


def _needs_root(listen: RemoteTcp, server: ServerFacts) -> bool:
    """Return True if sshd lets only root listen on the port, and the login is not as root."""
    return 0 < listen.port < _PRIVILEGED and server.user != "root"


def _is_special(listen: RemoteTcp) -> bool:
    """Return True if the server may lack the address: it is neither loopback nor a wildcard."""
    return not is_any(listen.host) and not is_loopback(listen.host)


def _unexplained_unix(listen: RemoteUnix, server: ServerFacts) -> Failure:
    refused = f"the SSH server refuses to listen on {listen.path}"
    size = len(listen.path.encode())
    if size > _UNIX_PATH_MAX:
        what = f"{refused} (the path has {size} bytes, and most systems allow {_UNIX_PATH_MAX})"
        return Failure(Reason.FORBIDDEN_BY_SERVER, what, "choose a shorter path")
    if not server.is_openssh:
        what = f"{refused} (it does not support unix sockets, forbids them, or cannot create the file)"
        fix = f"use a server that supports them, or see {server.settings(Kind.LISTEN_UNIX)}"
        return Failure(Reason.FORBIDDEN_BY_SERVER, what, fix)
    what = f"{refused} (the file exists, its directory is missing, or {server.user} may not write there)"
    fix = "remove the file if an earlier connection left it, or set StreamLocalBindUnlink in its sshd_config"
    return Failure(Reason.REMOTE_PORT_IN_USE, what, fix)


def _alternatives(causes: list[str]) -> str:
    return causes[0] if len(causes) == 1 else f"{', '.join(causes[:-1])}, or {causes[-1]}"
