"""The registry of client connections, held ones included: for `tunnels connections` and for the audit log.

Owns each connection from its acceptance to its end. Input: a call of the connector at each step. Output: the
connections, and a call of `audit` when one of a tunnel with `audit` opens and when it ends.
"""

from __future__ import annotations

from collections.abc import Callable

from reconciler.core.observed import ClientInfo
from reconciler.core.rules.origin import Origin
from reconciler.ssh.clients.connection import ClientConnection, ClientState, ListenerClients
from reconciler.ssh.relay.client_socket import ClientSocket

Audit = Callable[[ClientConnection], None]  # called when a connection opens (RELAYING) and when it ends (CLOSED)


class ConnectionRegistry:
    """The client connections by id."""

    def __init__(self, audit: Audit | None = None) -> None:
        self._audit = audit
        self._connections: dict[int, ClientConnection] = {}
        self._next = 1

    def add(
        self, listener: ListenerClients, socket: ClientSocket, origin: Origin, state: ClientState
    ) -> ClientConnection:
        """Add a client that the rules allow."""
        connection = ClientConnection(self._next, listener, socket, ClientInfo(origin), state)
        self._next += 1
        self._connections[connection.id] = connection
        return connection

    def opened(self, connection: ClientConnection) -> None:
        """Note that its connection to the destination is open."""
        connection.enter(ClientState.RELAYING)
        if self._audit is not None and connection.tunnel.policy.audit:
            connection.audited = True
            self._audit(connection)

    def ended(self, connection: ClientConnection, why: str = "") -> None:
        """Remove a connection that has ended. A second call does nothing."""
        if self._connections.pop(connection.id, None) is None:
            return
        relayed = connection.state is ClientState.RELAYING
        connection.enter(ClientState.CLOSED)
        connection.why = why
        if relayed and self._audit is not None and (connection.audited or connection.tunnel.policy.audit):
            self._audit(connection)

    def connections(self) -> tuple[ClientConnection, ...]:
        """Return all connections, oldest first."""
        return tuple(self._connections.values())
