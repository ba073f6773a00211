"""The client connections that have a link, grouped into flows: those of one tunnel that share a route and a link.

Owns the membership of each connection, from the choice of its link until both its ends are closed. Input: connections,
and the planner's Drain and Cut. Output: `FlowState`s. Calls `emptied` with the key of a flow when its last client has
left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from reconciler.core.observed import ClientInfo, Draining, FlowKey, FlowState, SocketKey
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.connection import ClientConnection
from reconciler.ssh.records import Records


@dataclass(slots=True)
class _Flow:
    """One flow. `clients`: of its connections; None: to be made, when a pass asks, not at each arrival."""

    key: FlowKey
    drain_timeout: float
    connections: dict[ClientConnection, None] = field(default_factory=dict)  # an ordered set
    draining: Draining | None = None
    clients: tuple[ClientInfo, ...] | None = None


class Flows:
    """The flows by key, and the number of clients of each link."""

    def __init__(self, records: Records, emptied: Callable[[FlowKey], None]) -> None:
        self._records = records
        self._emptied = emptied
        self._flows: dict[FlowKey, _Flow] = {}
        self._of: dict[ClientConnection, _Flow] = {}
        self._on_link: Counter[int] = Counter()

    def add(self, connection: ClientConnection) -> None:
        """Add a connection to the flow that it names."""
        key, drain_timeout = connection.flow, connection.tunnel.policy.drain_timeout
        assert key is not None
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(key, drain_timeout)
        flow.drain_timeout = drain_timeout
        flow.connections[connection] = None
        self._of[connection] = flow
        flow.clients = None
        self._on_link[key.link] += 1
        self._records.tunnel(key.tunnel).clients.active += 1

    def remove(self, connection: ClientConnection) -> None:
        """Remove a connection that has ended, or was cut. A second call does nothing."""
        if (flow := self._discard(connection)) is not None and not flow.connections:
            self._emptied(flow.key)

    def _discard(self, connection: ClientConnection) -> _Flow | None:
        """Remove a connection without a call of `emptied`. Return its flow, None if it was in none."""
        flow = self._of.pop(connection, None)
        if flow is None:
            return None
        key = flow.key
        del flow.connections[connection]
        flow.clients = None
        if not flow.connections:
            del self._flows[key]
        self._on_link[key.link] -= 1
        if not self._on_link[key.link]:
            del self._on_link[key.link]
        self._records.tunnel(key.tunnel).clients.active -= 1
        return flow

    def on_link(self, link: int) -> int:
        """Return how many clients a link carries."""
        return self._on_link[link]

    def connections(self, *, link: int | None = None, tunnel: str | None = None) -> Iterator[ClientConnection]:
        """Yield the connections of a link, of a tunnel, or all. Some may be removed during the iteration."""
        for key, flow in tuple(self._flows.items()):
            if link in (None, key.link) and tunnel in (None, key.tunnel):
                yield from tuple(flow.connections)

    def tunnels(self) -> set[str]:
        """Return the ids of tunnels that have live clients."""
        return {key.tunnel for key in self._flows}

    def drain(self, key: FlowKey, draining: Draining | None) -> None:
        """Set or clear the drain deadline of a flow."""
        if key in self._flows:
            self._flows[key].draining = draining

    def cut(self, key: FlowKey, why: str) -> None:
        """Cut the clients of a flow now. They no longer count, even before the server answers their close.

        If cutting one raises, which is an internal error, the others are cut nevertheless.
        """
        flow = self._flows.get(key)
        fault: Exception | None = None
        for connection in tuple(flow.connections) if flow else ():
            try:
                connection.cut(why)
                self.remove(connection)
            except Exception as error:  # noqa: BLE001 - raised below
                fault = error
        if fault is not None:
            raise fault

    def assign(self, socket: SocketKey, old: TunnelSpec, new: TunnelSpec) -> None:
        """Give the clients of a socket to its new owner, if its route is that of the old one; apply its settings."""
        for key, flow in tuple(self._flows.items()):
            if old.id != new.id and key.tunnel == old.id and key.route == new.route:
                for connection in [one for one in flow.connections if one.listener.state.key == socket]:
                    self._rename(connection, new, flow.draining)
        for key, flow in self._flows.items():
            if key.tunnel == new.id:
                flow.drain_timeout = new.policy.drain_timeout
                for connection in flow.connections:
                    connection.tunnel = new

    def _rename(self, connection: ClientConnection, tunnel: TunnelSpec, draining: Draining | None) -> None:
        flow = self._discard(connection)  # without `emptied`, which would close a retiring link
        assert flow is not None
        assert connection.relay is not None
        connection.tunnel, connection.flow = tunnel, replace(flow.key, tunnel=tunnel.id)
        connection.relay.totals = self._records.tunnel(tunnel.id).clients
        if connection.flow not in self._flows:
            timeout = tunnel.policy.drain_timeout
            self._flows[connection.flow] = _Flow(connection.flow, timeout, draining=draining)
        self.add(connection)

    def states(self) -> tuple[FlowState, ...]:
        return tuple(
            FlowState(key, _clients(flow), flow.drain_timeout, flow.draining) for key, flow in self._flows.items()
        )


def _clients(flow: _Flow) -> tuple[ClientInfo, ...]:
    if flow.clients is None:
        flow.clients = tuple(connection.client for connection in flow.connections)
    return flow.clients
