"""Whose turn it is to log in: so many handshakes at once with one address, as servers drop the rest.

In: an address, then the connection that came of it. Out: a place, which is given back when the server does not count
that connection among its logins any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

import asyncssh

from reconciler.core.spec import Endpoint

# To one address. sshd drops unauthenticated connections from the tenth on (MaxStartups), and counts one for a while
# after it turned us away or let us in: with 8 at once some of a hundred are dropped, and 6 are as fast.
HANDSHAKES_AT_ONCE = 6


@contextlib.asynccontextmanager
async def acquire_slot(endpoint: Endpoint) -> AsyncIterator[contextlib.ExitStack]:
    """A place among the handshakes with this endpoint. It can be taken along, to be given back later."""
    key = id(asyncio.get_running_loop()), endpoint
    gate = _gates.get(key)
    if gate is None:
        gate = _gates[key] = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
    await gate.acquire()
    with contextlib.ExitStack() as place:
        place.callback(gate.release)
        yield place


async def release_slot(place: contextlib.ExitStack, connection: asyncssh.SSHClientConnection, seconds: float) -> None:
    """The server has us out of its count when it answers a request. A busy one tells us before that we are let in."""
    with place, contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await connection._make_keepalive_request()  # noqa: SLF001 - there is no public way to ask for an answer


# One that nobody uses is gone.
_gates: WeakValueDictionary[tuple[int, Endpoint], asyncio.Semaphore] = WeakValueDictionary()
