"""Opens TCP connections by Happy Eyeballs (RFC 8305): IPv6 and IPv4 addresses alternate, 250 ms between attempts.

Returns a plain socket, so that the TCP connection and the SSH handshake have separate timeouts and errors.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from aiohappyeyeballs import AddrInfoType, start_connection

from reconciler.core.outbound import ANY_ADDRESS, Outbound
from reconciler.core.rules import metadata
from reconciler.core.spec import Endpoint
from reconciler.system.event_loop.readiness import watcher
from reconciler.system.resolver import addresses

_NEXT_ADDRESS_AFTER = 0.25
_CONNECTED = (0, errno.EISCONN)  # results of connect: Linux returns the first, macOS the other

SocketAddress = tuple[str, int] | tuple[str, int, int, int]

# Limit of parallel attempts beyond the first of each connection, in the whole process. A name may have any number of
# addresses, and each attempt without an answer keeps a descriptor until the connection is made or given up.
RACERS_MAX = 32
_racers: set[socket.socket] = set()


class NoAddressError(socket.gaierror):
    """The name could not be resolved to an address of the family that `outbound` prescribes."""

    def __init__(self, error: socket.gaierror, outbound: Outbound) -> None:
        super().__init__(*error.args)
        self.outbound = outbound


class LocalAddressError(OSError):
    """A socket could not be bound to the local address."""

    def __init__(self, error: OSError, address: str) -> None:
        super().__init__(*error.args)
        self.address = address


async def connect(endpoint: Endpoint, outbound: Outbound = ANY_ADDRESS, *, is_client: bool = False) -> socket.socket:
    """Return a connected, non-blocking socket. Raises gaierror if the name has no address, else OSError.

    `is_client`: the connection is for a client of a tunnel. Then a host name must not resolve to a link-local address
    or a cloud metadata service. Addresses of that kind in the file are checked when it is loaded.
    """
    try:
        infos = await addresses(endpoint, outbound.reachable)
    except socket.gaierror as error:
        if not outbound.reason:
            raise
        raise NoAddressError(error, outbound) from error
    if is_client and not metadata.kind_of_text(endpoint.host):
        infos = _permitted(infos)
    attempts = _Attempts(outbound.bind_address)
    try:
        if len(infos) == 1:
            sock = await _connect(attempts.make(infos[0]), infos[0][4])
        else:
            sock = await start_connection(
                infos, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1, socket_factory=attempts.make
            )
    except OSError:
        if attempts.bind_error is not None:
            raise LocalAddressError(attempts.bind_error, outbound.bind_address) from attempts.bind_error
        raise
    finally:
        _racers.difference_update(attempts.sockets)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _connect(sock: socket.socket, address: SocketAddress) -> socket.socket:
    """Connect to an address, and return the socket. It is closed if that fails."""
    try:
        error = await _error_of_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    if error in _CONNECTED:
        return sock
    sock.close()
    raise OSError(error, f"{os.strerror(error)}: {address}")


async def _error_of_connect(sock: socket.socket, address: SocketAddress) -> int:
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        error = sock.connect_ex(address)  # over loopback it is connected by now, which the first call does not see
    if error == errno.EALREADY:
        await _writable(sock.fileno())
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return error


async def _writable(fd: int) -> None:
    writable, descriptors = asyncio.Event(), watcher()
    descriptors.add_writer(fd, writable.set)
    try:
        await writable.wait()
    finally:
        descriptors.remove_writer(fd)


class _Attempts:
    """The sockets of one connection attempt. A socket made while another is open is a racer.

    bind_address  the local address of the sockets; "" lets the system choose
    bind_error    why a socket could not be bound to it
    """

    def __init__(self, bind_address: str) -> None:
        self.sockets: list[socket.socket] = []
        self.bind_address = bind_address
        self.bind_error: OSError | None = None

    def make(self, info: AddrInfoType) -> socket.socket:
        """Make a socket for an address. Raises OSError if there are too many racers; the address is then skipped."""
        is_racer = any(_is_open(sock) for sock in self.sockets)
        if is_racer:
            _racers.difference_update([sock for sock in _racers if not _is_open(sock)])
            if len(_racers) >= RACERS_MAX:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        family, kind, protocol, _, _ = info
        sock = socket.socket(family, kind, protocol)
        self.sockets.append(sock)
        if is_racer:
            _racers.add(sock)
        if self.bind_address:
            self._bind(sock)
        return sock

    def _bind(self, sock: socket.socket) -> None:
        try:
            sock.bind(_socket_address(self.bind_address, sock.family))
        except OSError as error:
            self.bind_error = error
            sock.close()
            raise


def _socket_address(address: str, family: int) -> tuple[str | int, ...]:
    """Return the address in the form for `bind`: the zone of an IPv6 address is the number of an interface there."""
    try:
        found = socket.getaddrinfo(address, 0, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror as error:  # no interface has the name of the zone
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)) from error
    *_, socket_address = found[0]
    return tuple(part for part in socket_address if not isinstance(part, bytes))


def _is_open(sock: socket.socket) -> bool:
    return sock.fileno() >= 0


def _permitted(infos: list[AddrInfoType]) -> list[AddrInfoType]:
    permitted = [info for info in infos if not metadata.kind_of_text(str(info[4][0]))]
    if infos and not permitted:
        address = infos[0][4][0]
        kind = metadata.kind_of_text(str(address))
        text = f"its name resolves to {address}, {kind}: write the address if that is intended"
        raise OSError(errno.EACCES, text)
    return permitted
