"""A TCP connection to a name: every address, IPv6 and IPv4 in turn, the next one 250 ms after the last (RFC 8305).

Returns a plain socket, so that what asyncssh then does is timed and told apart.
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

# Attempts beyond the first of each connection, in the whole process: a name may have any number of addresses, and each
# that does not answer keeps a descriptor until the connection is made or given up.
RACERS_MAX = 32
_racers: set[socket.socket] = set()


async def connect(endpoint: Endpoint, *, is_client: bool = False) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError: gaierror for the name, else of the connection.

    `is_client`: it is for a client of a tunnel. The name that the file gives must then not lead to a link-local address
    or a cloud metadata service. That the file names such an address itself is judged when it is loaded.
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
    """The sockets of one connection that is being made. One beside others that are open is a racer."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def make(self, info: AddrInfoType) -> socket.socket:
        """Raises OSError, so that the address is passed over, where there are too many racers."""
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
        text = f"its name leads to {address}, {metadata.kind_of_text(str(address))}: write the address if that is meant"
        raise OSError(errno.EACCES, text)
    return permitted
