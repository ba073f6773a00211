"""A TCP connection to a name: every address, IPv6 and IPv4 in turn, the next one 250 ms after the last (RFC 8305).

Returns a plain socket, so that what asyncssh then does is timed and told apart.
"""

from __future__ import annotations

import socket

from aiohappyeyeballs import start_connection

from reconciler.core.spec import Endpoint
from reconciler.ssh.names import addresses

_NEXT_ADDRESS_AFTER = 0.25


async def connect(endpoint: Endpoint) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError: gaierror for the name, else of the connection."""
    infos = await addresses(endpoint)
    sock = await start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
