"""A TCP connection to a name: every address, IPv6 and IPv4 in turn, the next one 250 ms after the last (RFC 8305).

Names are looked up anew each time. Returns a plain socket, so that what asyncssh then does is timed and told apart.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohappyeyeballs import AddrInfoType, start_connection

from reconciler.core.spec import Endpoint

_NEXT_ADDRESS_AFTER = 0.25

# Looking names up blocks its thread, for long while a resolver is away. In the loop's own few threads that would hold
# up every other target.
_resolvers = ThreadPoolExecutor(max_workers=32, thread_name_prefix="resolve")


async def connect(endpoint: Endpoint) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError: gaierror for the name, else of the connection."""
    infos = await _addresses(endpoint)
    sock = await start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _addresses(endpoint: Endpoint) -> list[AddrInfoType]:
    try:
        return _look_up(endpoint, socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_resolvers, _look_up, endpoint, 0)


def _look_up(endpoint: Endpoint, flags: int) -> list[AddrInfoType]:
    try:
        # Not AI_ADDRCONFIG: it hides ::1 where loopback is the only IPv6 there is.
        infos = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error
    return list(dict.fromkeys(infos))
