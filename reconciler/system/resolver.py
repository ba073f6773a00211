"""Resolves host names with the system's resolver. Input: an endpoint. Output: its addresses, or gaierror.

Results are not cached. A lookup blocks its thread, for half a minute if no name server answers. So lookups have
their own threads: in the few threads of the loop's default executor they would delay every other target.
"""

from __future__ import annotations

import asyncio
import socket

from aiohappyeyeballs import AddrInfoType

from reconciler.core.outbound import AddressFamily
from reconciler.core.spec import Endpoint
from reconciler.system.daemon_threads import DaemonThreads

_resolvers = DaemonThreads(32)


_FAMILIES = {
    AddressFamily.ANY: socket.AF_UNSPEC,
    AddressFamily.INET: socket.AF_INET,
    AddressFamily.INET6: socket.AF_INET6,
}


async def addresses(endpoint: Endpoint, family: AddressFamily = AddressFamily.ANY) -> list[AddrInfoType]:
    """Return the endpoint's addresses of a family in the resolver's order, without duplicates.

    Raises gaierror, also for a text that cannot be a host name.
    """
    try:
        return _look_up(endpoint, _FAMILIES[family], socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().run_in_executor(_resolvers, _look_up, endpoint, _FAMILIES[family], 0)


def _look_up(endpoint: Endpoint, family: int, flags: int) -> list[AddrInfoType]:
    try:
        # Not AI_ADDRCONFIG: it hides ::1 on a machine whose only IPv6 address is loopback.
        infos = socket.getaddrinfo(endpoint.host, endpoint.port, family, socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error
    return list(dict.fromkeys(infos))
