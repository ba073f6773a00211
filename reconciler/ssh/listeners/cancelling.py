"""Cancels listeners on servers, and retries if an internal error prevents it.

Input: a listener on a server, its link and its owner. Output: the faults of running cancellations by tunnel id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from reconciler.core import backoff
from reconciler.core.faults import internal
from reconciler.core.observed import Reason, Tries
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.counters import Counters
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.remote_listeners import RemoteListener
from reconciler.system.fault_log import FaultLog

_DOING = "cancelling a listener on the server"


class Cancelling:
    """Cancels remote listeners. `faults`: cancellations that an internal error delays, by tunnel id."""

    def __init__(self, *, changed: Callable[[], None], counters: Counters, fault_log: FaultLog) -> None:
        self._changed = changed
        self._counters = counters
        self._fault_log = fault_log
        self.faults: dict[str, Tries] = {}

    async def cancel(self, forward: RemoteListener | None, link: Link | None, owner: TunnelSpec) -> None:
        """Accept no more clients, and have the server stop listening.

        An internal error is retried until the link is gone: the port would never be free otherwise.
        """
        if forward is None or link is None:
            return
        forward.accept = None
        try:
            while not link.gone:
                try:
                    await link.forwards.close(forward)
                except (OSError, asyncssh.Error):
                    return  # the connection is ending, and its listeners with it
                except Exception as error:  # noqa: BLE001 - see the docstring
                    await self._wait_after(error, owner)
                else:
                    return
        finally:
            if self.faults.pop(owner.id, None) is not None:
                self._changed()

    async def _wait_after(self, error: Exception, owner: TunnelSpec) -> None:
        self._fault_log.tell(_DOING, error, subject=owner.id)
        self._counters.failures(owner.id)[Reason.INTERNAL] += 1
        now = asyncio.get_running_loop().time()
        tries = backoff.failed(self.faults.get(owner.id), internal(_DOING, error), now, None, "")
        self.faults[owner.id] = tries
        self._changed()
        await asyncio.sleep(backoff.next_fault_try(tries) - now)
