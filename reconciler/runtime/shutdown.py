"""Shutdown of the process: no new clients, live clients drain, servers get time to release their ports.

Input: the request, by a signal or a call, and the observed state after each later pass. Output: `finished` returns
when nothing is left to wait for. After a second request it returns immediately.
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

CLOSE_TIMEOUT = 2.0  # seconds that servers have for their close replies after the last client has left


class Shutdown:
    """The state of the shutdown, and the signal handlers. SIGHUP calls `reload`."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._signals = Signals()
        self._requested = asyncio.Event()
        self._immediate = asyncio.Event()
        self._no_clients = asyncio.Event()
        self._empty = asyncio.Event()  # no clients, links or sockets

    @property
    def is_requested(self) -> bool:
        return self._requested.is_set()

    async def requested(self) -> None:
        """Return when shutdown is requested."""
        await self._requested.wait()

    def request(self) -> None:
        """Shut down when the clients have left; on a second call, immediately."""
        if self.is_requested:
            self._immediate.set()
        else:
            log.info("draining clients; signal again to exit immediately")
        self._requested.set()

    def update(self, observed: Observed) -> None:
        """Take the observed state of a pass with an empty desired state and no actions."""
        if not observed.flows:
            self._no_clients.set()
            if not observed.links and not observed.sockets:
                self._empty.set()

    async def finished(self) -> None:
        """Return when nothing is left: clients have their drain timeouts, silent servers `CLOSE_TIMEOUT`."""
        waiting = [asyncio.create_task(self._everything_closed()), asyncio.create_task(self._immediate.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _everything_closed(self) -> None:
        await self._no_clients.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._empty.wait()

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT request shutdown, SIGHUP reloads. After a shutdown, signals are ignored."""
        # A signal during interpreter exit would kill a process that has already shut down.
        with self._signals.handled(ignore_after=lambda: self.is_requested):
            self.install_handlers()
            yield

    def install_handlers(self) -> None:
        """Handle signals as `handle_signals` says; ends `redirect_signals`."""
        self._signals.on(signal.SIGTERM, self.request)
        self._signals.on(signal.SIGINT, self.request)
        self._signals.on(signal.SIGHUP, self._reload)

    def redirect_signals(self, to: Callable[[signal.Signals], None]) -> None:
        """Inside `handle_signals`: call `to` with each signal until `install_handlers` is called."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._signals.on(number, functools.partial(to, number))
