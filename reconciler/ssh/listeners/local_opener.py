"""Opens and closes listening sockets here.

Owns the reserve descriptor of all acceptors. Input: the record of a listener. Output: bound sockets in the record, and
their clients, to the connector.
"""

from __future__ import annotations

import asyncio
import logging

from reconciler.core.descriptor_budget import REMEDY, Budget, NoRoomError
from reconciler.core.observed import ClientResult, Reason
from reconciler.core.spec import LocalTcp, LocalUnix
from reconciler.core.subject import Subject
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.listeners.acceptor import Acceptor, ReserveDescriptor
from reconciler.ssh.listeners.address_records import Listener
from reconciler.ssh.records import Records
from reconciler.system.bind import bind, descriptors_of
from reconciler.system.event_loop.readiness import watcher
from reconciler.system.fault_log import FaultLog

EXHAUSTED_LOG_INTERVAL = 60.0  # seconds between two warnings about missing descriptors

log = logging.getLogger(__name__)


class LocalOpener:
    """Binds sockets within the descriptor budget and accepts their clients."""

    def __init__(self, connector: ClientConnector, *, budget: Budget, records: Records, fault_log: FaultLog) -> None:
        self._connector = connector
        self._budget = budget
        self._records = records
        self._fault_log = fault_log
        self._loop = asyncio.get_running_loop()
        self._reserve = ReserveDescriptor()
        self._exhausted_logged_at = -EXHAUSTED_LOG_INTERVAL

    async def open(self, listener: Listener, listen: LocalTcp | LocalUnix) -> str:
        """Bind the sockets of a listener and accept clients. Returns the bound address.

        Raises OSError and NoRoomError; `shut` then frees what was opened.
        """
        self._take_places(listener, descriptors_of(listen))
        last_port = self._records.tunnel(listener.state.owner.id).assigned_port
        listener.bound = bound = await bind(listen, last_port)
        # A host name may have any number of addresses.
        self._take_places(listener, bound.descriptors - len(listener.places))
        while len(listener.places) > bound.descriptors:
            listener.places.pop().give_back()
        for sock in bound.sockets:
            listener.acceptors.append(
                Acceptor(
                    sock,
                    self._reserve,
                    admit=lambda origin: self._connector.accept_check.take_place(listener, origin),
                    accepted=lambda client, origin: self._connector.accept(listener, client, origin),
                    exhausted=lambda: self._exhausted(listener),
                )
            )
        return bound.address

    def shut(self, listener: Listener) -> None:
        """Close the sockets of a listener, if there are any, and give back their places."""
        for acceptor in listener.acceptors:
            try:
                acceptor.close()
            except Exception as error:  # noqa: BLE001 - the socket itself must be closed nevertheless
                self._fault_log.tell("closing an acceptor", error, subject=Subject("tunnel", listener.state.owner.id))
        listener.acceptors.clear()
        if listener.bound is not None:
            for sock in listener.bound.sockets:
                watcher().remove_reader(sock.fileno())  # does nothing unless the acceptor failed to
            listener.bound.close()
            listener.bound = None
        for place in listener.places:
            place.give_back()
        listener.places.clear()

    def close(self) -> None:
        """Close the reserve descriptor."""
        self._reserve.release()

    def _take_places(self, listener: Listener, count: int) -> None:
        for _ in range(count):
            place = self._budget.take_listener(1)
            if place is None:
                raise NoRoomError(self._budget.no_listener())
            listener.places.append(place)

    def _exhausted(self, listener: Listener) -> None:
        """Count a client that was reset because the process has no descriptor left; log it once in a while."""
        tunnel = listener.state.owner
        self._connector.accept_check.count(tunnel, ClientResult.LIMIT)
        self._records.tunnel(tunnel.id).failures[Reason.RESOURCES] += 1
        now = self._loop.time()
        if now - self._exhausted_logged_at >= EXHAUSTED_LOG_INTERVAL:
            self._exhausted_logged_at = now
            log.warning("%s: no descriptor left for another client: %s", tunnel.id, REMEDY)
