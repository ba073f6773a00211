"""Requests listeners on servers, moves them between links, and cancels them.

Input: the record of a listener, and a link. Output: the listener on the server, in the record; clients, to the
connector; and cancels that an internal error delays, in the records of tunnels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace

import asyncssh

from reconciler.core import backoff
from reconciler.core.faults import internal
from reconciler.core.observed import Reason
from reconciler.core.spec import RemoteTcp, RemoteUnix, TunnelSpec
from reconciler.core.subject import Subject
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.remote_listeners import ListenRefusedError, RemoteListener
from reconciler.ssh.listeners.address_records import Listener
from reconciler.ssh.records import Records
from reconciler.system.fault_log import FaultLog

RELEASE_TIMEOUT = 5.0  # seconds that a move waits for the cancel, each time that the request is refused

# Seconds between the requests of a move to another link. After the last one the port counts as taken.
MOVE_PAUSES = (0.0, 0.05, 0.2, 0.5)

_CANCELLING = "cancelling a listener on the server"


class RemoteOpener:
    """Has servers listen. `changed` is called when the planner should run again."""

    def __init__(
        self, connector: ClientConnector, *, changed: Callable[[], None], records: Records, fault_log: FaultLog
    ) -> None:
        self._connector = connector
        self._changed = changed
        self._records = records
        self._fault_log = fault_log

    async def open(self, listener: Listener, listen: RemoteTcp | RemoteUnix, link: Link) -> str:
        """Have the server listen, unless it does already. Returns the bound address.

        Raises ListenRefusedError; asyncssh.Error or OSError if the connection is lost.
        """
        if listener.forward is None and (last := self._with_last_port(listener, listen)) != listen:
            with contextlib.suppress(ListenRefusedError):
                await self._request(listener, last, link)
        if listener.forward is None:
            await self._request(listener, listen, link)
        assert listener.forward is not None
        return listener.forward.address

    async def request_moved(
        self, listener: Listener, listen: RemoteTcp | RemoteUnix, link: Link, released: asyncio.Task[None]
    ) -> None:
        """Request a listener on its new link while `released` cancels it on the old one.

        OpenSSH has a process for each connection: the request may precede the cancel, and is then repeated. `open`
        reports the result.
        """
        for pause in MOVE_PAUSES:
            try:
                await self._request(listener, self._with_last_port(listener, listen), link)
            except ListenRefusedError:
                await asyncio.wait({released}, timeout=RELEASE_TIMEOUT)
                await asyncio.sleep(pause)
            except (OSError, asyncssh.Error):
                break  # the new link, too, is gone
            else:
                break

    def release(self, listener: Listener) -> Coroutine[None, None, None]:
        """Take the listener on the server, if there is one, from the record. Returns the coroutine that cancels it."""
        forward, link = listener.forward, listener.carrier
        listener.forward = listener.carrier = None
        if link is not None and not link.forwards.cancels:
            listener.address.unreleased = link
        return self._cancel(forward, link, listener.state.owner)

    async def _request(self, listener: Listener, listen: RemoteTcp | RemoteUnix, link: Link) -> None:
        listener.forward = await link.forwards.listen(
            listen, lambda channel, origin: self._connector.remote_clients.accept(listener, link, channel, origin)
        )
        listener.carrier = link

    def _with_last_port(self, listener: Listener, listen: RemoteTcp | RemoteUnix) -> RemoteTcp | RemoteUnix:
        """Return the address, with the port that the server assigned last if it assigns the port."""
        last = self._records.tunnel(listener.state.owner.id).assigned_port
        return replace(listen, port=last) if isinstance(listen, RemoteTcp) and not listen.port and last else listen

    async def _cancel(self, forward: RemoteListener | None, link: Link | None, owner: TunnelSpec) -> None:
        """Accept no more clients, and have the server stop listening.

        An internal error is retried until the link is gone: the port would never be free otherwise.
        """
        if forward is None or link is None:
            return
        forward.accept = None
        record = self._records.tunnel(owner.id)
        try:
            while not link.gone:
                try:
                    await link.forwards.close(forward)
                except (OSError, asyncssh.Error):
                    return  # the connection is ending, and its listeners with it
                except Exception as error:  # noqa: BLE001 - see the docstring
                    self._fault_log.tell(_CANCELLING, error, subject=Subject("tunnel", owner.id))
                    record.failures[Reason.INTERNAL] += 1
                    now = asyncio.get_running_loop().time()
                    tries = backoff.failed(record.cancel_tries, internal(_CANCELLING, error), now, None, "")
                    record.cancel_tries = tries
                    self._changed()
                    await asyncio.sleep(backoff.next_fault_try(tries) - now)
                else:
                    return
        finally:
            if record.cancel_tries is not None:
                record.cancel_tries = None
                self._changed()
