"""Names to addresses, by the system's resolver. In: an endpoint. Out: its addresses, or gaierror.

Names are looked up anew each time. Looking one up blocks its thread, for half a minute while no name server answers. So
it is done in threads of its own: in the loop's own few it would hold up every other target.
"""

from __future__ import annotations

import asyncio
import socket

from aiohappyeyeballs import AddrInfoType

from reconciler.core.spec import Endpoint
from reconciler.system.daemon_threads import DaemonThreads

_resolvers = DaemonThreads(32)


async def addresses(endpoint: Endpoint) -> list[AddrInfoType]:
    """In the resolver's order, each once. Raises gaierror; a name that can be none is unknown."""
    try:
        return _look_up(endpoint, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().run_in_executor(_resolvers, _look_up, endpoint, 0)


def _look_up(endpoint: Endpoint, flags: int) -> list[AddrInfoType]:
    try:
        # Not AI_ADDRCONFIG: it hides ::1 where loopback is the only IPv6 there is.
        infos = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error
    return list(dict.fromkeys(infos))
