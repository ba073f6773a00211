"""Limits the handshakes that run at once with one address, because servers drop connections beyond a limit.

Input: an address, then its connection. Output: a slot, which is released when the server no longer counts the
connection among its unauthenticated ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from reconciler.core.spec import Endpoint
from reconciler.ssh.internals.global_requests import GlobalRequests

# For each address. sshd drops unauthenticated connections from the tenth on (MaxStartups), and counts a connection for
# a while after it refused or accepted the login. Measured with a hundred logins: with 8 at a time some are dropped, and
# 6 at a time take no longer.
HANDSHAKES_AT_ONCE = 6
ANSWER_WITHIN = 5.0  # seconds: some servers answer no such requests, and the next login must not wait long for them


@contextlib.asynccontextmanager
async def acquire_slot(endpoint: Endpoint) -> AsyncIterator[contextlib.ExitStack]:
    """Wait for a slot among the handshakes with this endpoint. The end of the block releases it.

    The yielded stack holds the slot: to release it later, take it over with `pop_all` and call `release_slot`.
    """
    key = id(asyncio.get_running_loop()), endpoint
    gate = _gates.get(key)
    if gate is None:
        gate = _gates[key] = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
    await gate.acquire()
    with contextlib.ExitStack() as place:
        place.callback(gate.release)
        yield place


def release_slot(place: contextlib.ExitStack, requests: GlobalRequests, seconds: float) -> None:
    """Release the slot when the server answers a request, or after `seconds`, at most ANSWER_WITHIN.

    A busy server reports the end of the login before it stops counting the connection. Its answer to a later request
    shows that it has stopped.
    """
    answer = requests.ping()
    limit = asyncio.get_running_loop().call_later(min(seconds, ANSWER_WITHIN), answer.cancel)
    answer.add_done_callback(lambda _: limit.cancel())
    answer.add_done_callback(lambda _: place.close())


# A semaphore that is not in use is collected.
_gates: WeakValueDictionary[tuple[int, Endpoint], asyncio.Semaphore] = WeakValueDictionary()
