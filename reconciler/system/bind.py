"""Binds the listening sockets of this process.

Input: a `LocalTcp` or `LocalUnix`. Output: a `Bound`, already listening, so that no client is refused after its tunnel
is announced. Raises OSError, which `ssh/errors/channel_errors.py` translates.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import ipaddress
import os
import socket
from dataclasses import dataclass

from reconciler.core.spec import Endpoint, LocalTcp, LocalUnix
from reconciler.system.unix_listener import UnixListener, listen_unix

BACKLOG = 1024
_LONGEST_GID, _LARGEST_GID = 10, 2**32 - 2  # digits and value; -1 leaves the group as it is


@dataclass(frozen=True, slots=True)
class Bound:
    """The listening sockets of one address, the address to show, and the unix listener if the address is a path."""

    sockets: tuple[socket.socket, ...]
    address: str
    unix: UnixListener | None = None

    @property
    def descriptors(self) -> int:
        """The number of open descriptors. A unix listener has one more for its lock."""
        return len(self.sockets) + (self.unix is not None)

    def close(self) -> None:
        """Stop listening and remove a unix socket's file. Raises nothing."""
        if self.unix is not None:
            self.unix.close()
        for sock in self.sockets:
            sock.close()


def descriptors_of(listen: LocalTcp | LocalUnix) -> int:
    """Return how many descriptors a listener there takes. A host name counts as one IPv4 and one IPv6 address."""
    match listen:
        case LocalTcp(host=host):
            try:
                ipaddress.ip_address(host.partition("%")[0])
            except ValueError:
                return 2
            return 1
        case LocalUnix():
            return 2  # the socket and its lock


async def bind(listen: LocalTcp | LocalUnix, previous: int = 0) -> Bound:
    """Bind and listen. `previous` is the port of an earlier run, preferred if `listen` allows a choice."""
    match listen:
        case LocalTcp():
            return await _bind_tcp(listen, previous)
        case LocalUnix():
            return _bind_unix(listen)


# --- TCP --------------------------------------------------------------------------------------------------------


async def _bind_tcp(listen: LocalTcp, previous: int) -> Bound:
    addresses = await _addresses(listen.host)
    last: OSError | None = None
    for port in _ports(listen, previous):
        try:
            return _bind_all(addresses, port, listen.host)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            last = error
    raise last or OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _ports(listen: LocalTcp, previous: int) -> list[int]:
    ports = list(range(listen.first, listen.last + 1))
    if previous and (listen.first == 0 or previous in ports):
        return [previous, *(port for port in ports if port != previous)]
    return ports


async def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Return every address of the host, as ssh does."""
    if host in ("*", ""):
        wildcards = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104 - the configuration says "*"
        return wildcards if socket.has_ipv6 else wildcards[:1]
    if host.lower() == "localhost":  # not looked up (RFC 6761): many /etc/hosts have no ::1 under this name
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    infos = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in infos))


def _bind_all(addresses: list[tuple[socket.AddressFamily, str]], port: int, host: str) -> Bound:
    """Bind the same port on every address, or on none.

    An address of an IP version that the machine lacks is skipped if another address can be bound.
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                sock = _listening(family, address, port)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return Bound(tuple(sockets), str(Endpoint(host or "*", port)))


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


# --- unix -------------------------------------------------------------------------------------------------------


def _bind_unix(listen: LocalUnix) -> Bound:
    group = _group(listen.group) if listen.group else -1
    listener = listen_unix(listen.path, listen.mode, group, BACKLOG)
    return Bound((listener.sock,), listen.path, listener)


def _group(name: str) -> int:
    """Return the gid of a group name or number. Raises OSError."""
    if name.isascii() and name.isdigit():
        if len(name) > _LONGEST_GID or int(name) > _LARGEST_GID:
            raise OSError(errno.EINVAL, f"group {name[:_LONGEST_GID]} is out of range: expected 0 to {_LARGEST_GID}")
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise OSError(errno.EINVAL, f"there is no group {name}") from None
