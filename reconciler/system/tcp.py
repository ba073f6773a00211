"""Opens TCP connections by Happy Eyeballs (RFC 8305): IPv6 and IPv4 addresses alternate, 250 ms between attempts.

Returns a plain socket, so that the TCP connection and the SSH handshake have separate timeouts and errors.
"""

from __future__ import annotations

import errno
import os
import socket

from aiohappyeyeballs import AddrInfoType, start_connection

from reconciler.core.rules import metadata
from reconciler.core.spec import Endpoint
from reconciler.system.resolver import addresses

_NEXT_ADDRESS_AFTER = 0.25

# Limit of parallel attempts beyond the first of each connection, in the whole process. A name may have any number of
# addresses, and each attempt without an answer keeps a descriptor until the connection is made or given up.
RACERS_MAX = 32
_racers: set[socket.socket] = set()


async def connect(endpoint: Endpoint, *, is_client: bool = False) -> socket.socket:
    """Return a connected, non-blocking socket. Raises gaierror if the name has no address, else OSError.

    `is_client`: the connection is for a client of a tunnel. Then a host name must not resolve to a link-local address
    or a cloud metadata service. Addresses of that kind in the file are checked when it is loaded.
    """
    infos = await addresses(endpoint)
    if is_client and not metadata.kind_of_text(endpoint.host):
        infos = _permitted(infos)
    attempts = _Attempts()
    try:
        sock = await start_connection(
            infos, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1, socket_factory=attempts.make
        )
    finally:
        _racers.difference_update(attempts.sockets)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class _Attempts:
    """The sockets of one connection attempt. A socket made while another is open is a racer."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

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
        return sock


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
