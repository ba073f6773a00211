"""Gives clients a link and a relay, and counts how their attempts to connect end."""

from __future__ import annotations

import logging

from reconciler.core.observed import ClientResult
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.accept_check import AcceptCheck
from reconciler.ssh.clients.connection import ClientConnection, ClientState
from reconciler.ssh.clients.connection_registry import ConnectionRegistry
from reconciler.ssh.clients.flows import Flows
from reconciler.ssh.clients.hold_queue import HoldQueue
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import Records
from reconciler.ssh.relay.relay import Relay

log = logging.getLogger(__name__)


class Relays:
    """Starts the relays of all tunnels' clients."""

    def __init__(
        self,
        flows: Flows,
        records: Records,
        hold_queue: HoldQueue,
        accept_check: AcceptCheck,
        registry: ConnectionRegistry,
    ) -> None:
        self._flows = flows
        self._records = records
        self._hold_queue = hold_queue
        self._accept_check = accept_check
        self._registry = registry

    def start(self, connection: ClientConnection, tunnel: TunnelSpec, link: Link) -> Relay:
        """Give a connection a link. Returns its relay."""
        clients = self._records.tunnel(tunnel.id).clients

        def ended(why: str) -> None:
            self.leave(connection)
            if connection.state is ClientState.RELAYING:
                self._registry.ended(connection, why)
            elif connection.result is None:  # it was cut while its channel opened
                self.finish(connection, ClientResult.LEFT)
                self._registry.ended(connection)

        relay = Relay(connection.socket, clients, link.channels, ended)
        relay.throttle(*clients.throttles(tunnel.policy.bandwidth_limit))
        connection.assign_link(tunnel, link, relay)
        connection.listener.waiting.discard(connection)  # from here on it is counted as a flow
        self._flows.add(connection)
        return relay

    def leave(self, connection: ClientConnection) -> None:
        """Take a connection out of its flow."""
        if connection.link is not None:
            self._hold_queue.mark_used(connection.link.target)
        self._flows.remove(connection)

    def finish(self, connection: ClientConnection, result: ClientResult, why: str = "") -> None:
        """Count the result of a client's attempt to connect, and log it unless `why` is ""."""
        connection.result = result
        self._accept_check.refuse(connection.tunnel, result, connection.client.origin, why)

    def log_fault(self, connection: ClientConnection, error: Exception) -> None:
        """Log a bug that one client met, and reset the client."""
        text = "%s: internal error while a client connected: please report it"
        log.error(text, connection.tunnel.id, exc_info=error)
        connection.socket.reset()
