"""The end of the process: nobody new, the clients drain, the servers have a moment to give their ports back.

In: the request to end, by a signal or a call, and what each pass of the loop finds after it. Out: the moment at which
nothing is left to wait for. Asked for twice, that is at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import Callable, Iterator

from reconciler.core.observed import Observed
from reconciler.system.signals import Signals

log = logging.getLogger(__name__)

GOODBYE = 2.0  # seconds that servers have to answer when the last client has left, before the end goes on without them


class Shutdown:
    """See the module. `reload` is what SIGHUP asks for."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._signals = Signals()
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._deserted = asyncio.Event()  # no client is left
        self._empty = asyncio.Event()  # nor anything else

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    async def asked(self) -> None:
        """Return when the end is asked for."""
        await self._asked.wait()

    def ask(self) -> None:
        """End when the clients have left; asked again: at once."""
        if self.is_asked:
            self._hurry.set()
        else:
            log.info("ending: no new clients; live ones may drain. Once more ends at once")
        self._asked.set()

    def look(self, observed: Observed) -> None:
        """What is there while nothing is asked for any more, and nothing is left to be done about it."""
        if not observed.flows:
            self._deserted.set()
            if not observed.links and not observed.sockets:
                self._empty.set()

    async def over(self) -> None:
        """Return when nothing is left to wait for. Clients have their drain timeouts, silent servers `GOODBYE`."""
        waiting = [asyncio.create_task(self._farewell()), asyncio.create_task(self._hurry.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _farewell(self) -> None:
        await self._deserted.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await self._empty.wait()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end, a second one at once; SIGHUP reloads. What comes after the end changes nothing."""
        # It would kill, or trace back, what is done but for its last words.
        with self._signals.handled(ignore_after=lambda: self.is_asked):
            self.heed()
            yield

    def heed(self) -> None:
        """Take signals as `signals` says, also those that `give` has given to somebody else meanwhile."""
        self._signals.on(signal.SIGTERM, self.ask)
        self._signals.on(signal.SIGINT, self.ask)
        self._signals.on(signal.SIGHUP, self._reload)

    def give(self, to: Callable[[signal.Signals], None]) -> None:
        """Until `heed` is called: inside `signals`, somebody else gets them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._signals.on(number, functools.partial(to, number))
