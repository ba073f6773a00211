"""Names to addresses, by the system's resolver. In: an endpoint. Out: its addresses, or gaierror.

Names are looked up anew each time. Looking one up blocks its thread, for half a minute while no name server answers. So
it is done in threads of its own: in the loop's own few it would hold up every other target, and those of any executor
are waited for when the program ends.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from queue import SimpleQueue

from aiohappyeyeballs import AddrInfoType

from reconciler.core.spec import Endpoint


class _Question:
    """A name to look up, and whoever waits for it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.answer: Future[list[AddrInfoType]] = Future()

    def settle(self) -> None:
        if not self.answer.set_running_or_notify_cancel():
            return  # nobody waits any more
        try:
            found = _look_up(self.endpoint, 0)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
            self.answer.set_exception(error)
        else:
            self.answer.set_result(found)


class _Resolvers:
    """At most so many threads, started when needed, that no end of the program waits for."""

    def __init__(self, most: int) -> None:
        self._more = most
        self._free = 0
        self._lock = threading.Lock()
        self._questions: SimpleQueue[_Question] = SimpleQueue()

    def ask(self, question: _Question) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
            elif self._more:
                self._more -= 1
                threading.Thread(target=self._work, name="resolve", daemon=True).start()
        self._questions.put(question)

    def _work(self) -> None:
        while True:
            self._questions.get().settle()
            with self._lock:
                self._free += 1


_resolvers = _Resolvers(32)


async def addresses(endpoint: Endpoint) -> list[AddrInfoType]:
    """In the resolver's order, each once. Raises gaierror; a name that can be none is unknown."""
    try:
        return _look_up(endpoint, socket.AI_NUMERICHOST)
    except socket.gaierror:
        question = _Question(endpoint)
        _resolvers.ask(question)
        return await asyncio.wrap_future(question.answer)


def _look_up(endpoint: Endpoint, flags: int) -> list[AddrInfoType]:
    try:
        # Not AI_ADDRCONFIG: it hides ::1 where loopback is the only IPv6 there is.
        infos = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error
    return list(dict.fromkeys(infos))
