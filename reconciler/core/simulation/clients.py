"""The clients of the simulator: live ones by flow, held ones by socket, and the demand for each target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.core.actions import Action, Assign
from reconciler.core.observed import (
    ClientInfo,
    Demand,
    Draining,
    FlowKey,
    FlowState,
    Observed,
    SocketKey,
    SocketState,
)
from reconciler.core.rules.admission import forbids
from reconciler.core.rules.origin import UNIX
from reconciler.core.simulation.impossible import ImpossibleError
from reconciler.core.simulation.links import SimulatedLinks
from reconciler.core.spec import Listen, TunnelSpec


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """A live client, and the socket that accepted it."""

    client_info: ClientInfo
    socket: SocketKey


@dataclass(slots=True)
class _Flow:
    """The live clients of one flow."""

    clients: list[Client]
    drain_timeout: float
    draining: Draining | None


class SimulatedClients:
    """All clients, and when each target was last used."""

    def __init__(self, observed: Observed, links: SimulatedLinks) -> None:
        self._links = links
        self._flows = _flows_of(observed)
        self._held: Counter[SocketKey] = Counter()
        self._observed_held = {name: demand.held for name, demand in observed.demand.items() if demand.held}
        self._last_used = {name: demand.last_used for name, demand in observed.demand.items()}

    def flows(self) -> tuple[FlowState, ...]:
        return tuple(
            FlowState(key, tuple(client.client_info for client in flow.clients), flow.drain_timeout, flow.draining)
            for key, flow in self._flows.items()
        )

    def demand(self, sockets: Mapping[SocketKey, SocketState]) -> dict[str, Demand]:
        held = Counter(self._observed_held)
        for key, count in self._held.items():
            held[sockets[key].owner.target] += count
        return {name: Demand(held[name], at) for name, at in self._last_used.items()}

    def use(self, link_id: int) -> bool:
        """Return True if a client uses this link."""
        return any(flow.link == link_id for flow in self._flows)

    def on_link(self, link_id: int) -> list[Client]:
        return [client for key, flow in self._flows.items() if key.link == link_id for client in flow.clients]

    # --- actions ---

    def assign(self, step: Assign, previous: TunnelSpec, now: float) -> list[Client]:
        """Apply a new owner's rules to the clients of a socket. Return the clients that the rules cut."""
        tunnel = step.tunnel
        if previous.id != tunnel.id:
            for key in [key for key in self._flows if key.tunnel == previous.id and key.route == tunnel.route]:
                self._rename(key, tunnel, step.key)
        cut: list[Client] = []
        for key in [key for key in self._flows if key.tunnel == tunnel.id]:
            flow = self._flows[key]
            flow.drain_timeout = tunnel.policy.drain_timeout
            forbidden = [client for client in flow.clients if forbids(tunnel, client.client_info)]
            self.remove(key, forbidden, now)
            cut += forbidden
        return cut

    def drain(self, key: FlowKey, draining: Draining | None, action: Action) -> list[Client]:
        flow = self._flow(key, action)
        flow.draining = draining
        return flow.clients if draining is not None else []

    def cut(self, key: FlowKey, action: Action) -> list[Client]:
        flow = self._flow(key, action)
        del self._flows[key]
        return flow.clients

    # --- events ---

    def accept(self, socket: SocketState, now: float, client_info: ClientInfo | None = None) -> FlowKey | None:
        """Admit a client to the least loaded link, or hold it (None) if there is no link."""
        owner = socket.owner
        self._last_used[owner.target] = now
        links = self._links.usable_by(socket)
        if not links:
            self._held[socket.key] += 1
            return None
        load: Counter[int] = Counter()
        for key, flow in self._flows.items():
            load[key.link] += len(flow.clients)
        key = FlowKey(owner.id, socket.key.listen, owner.route, min(links, key=lambda link: (load[link], link)))
        flow = self._flows.setdefault(key, _Flow([], owner.policy.drain_timeout, None))
        flow.clients.append(Client(client_info or _any_client(owner), socket.key))
        return key

    def admit_held(self, sockets: Mapping[SocketKey, SocketState], now: float) -> None:
        """Accept the held clients again, after a link came up."""
        held, self._held = self._held, Counter()
        for key in held.elements():
            self.accept(sockets[key], now)

    def drop_held(self) -> None:
        self._held.clear()

    def drop_held_at(self, key: SocketKey) -> None:
        del self._held[key]

    def leave(self, key: FlowKey, now: float) -> None:
        """Remove one client of this flow."""
        self.remove(key, self._flows[key].clients[:1], now)

    def remove(self, key: FlowKey, leaving: Collection[Client], now: float) -> None:
        link = self._links.by_id.get(key.link)
        if leaving and link is not None:
            self._last_used[link.target] = now
        flow, gone = self._flows[key], frozenset(leaving)
        flow.clients = [client for client in flow.clients if client not in gone]
        if not flow.clients:
            del self._flows[key]

    def remove_link(self, link_id: int, target: str, now: float) -> None:
        """Remove all clients of a lost link."""
        for key in [key for key in self._flows if key.link == link_id]:
            self._last_used[target] = now
            del self._flows[key]

    def _rename(self, key: FlowKey, tunnel: TunnelSpec, socket: SocketKey) -> None:
        """Give the clients that this socket accepted to its new owner."""
        old = self._flows[key]
        moving = [client for client in old.clients if client.socket == socket]
        if not moving:
            return
        new_key = replace(key, tunnel=tunnel.id)
        new = self._flows.setdefault(new_key, _Flow([], tunnel.policy.drain_timeout, old.draining))
        new.clients += moving
        old.clients = [client for client in old.clients if client.socket != socket]
        if not old.clients:
            del self._flows[key]

    def _flow(self, key: FlowKey, action: Action) -> _Flow:
        flow = self._flows.get(key)
        if flow is None:
            raise ImpossibleError(f"expected clients that are there: {action}")
        return flow


def _any_client(tunnel: TunnelSpec) -> ClientInfo:
    """Return a client that the rules of every tunnel admit: one of a unix socket."""
    return ClientInfo(UNIX, user=next(iter(tunnel.policy.users), None))


def _flows_of(observed: Observed) -> dict[FlowKey, _Flow]:
    """Return the flows of an observed state.

    `Observed` does not say which of several sockets with an equal address (a chosen port) accepted a client. The socket
    of the client's tunnel is assumed.
    """
    sockets: dict[tuple[Listen, str], SocketKey] = {}
    for key, socket in observed.sockets.items():
        sockets[key.listen, socket.owner.id] = key
    flows = {}
    for flow in observed.flows:
        accepted_by = sockets.get((flow.key.listen, flow.key.tunnel), SocketKey(flow.key.listen, 0))
        clients = [Client(client_info, accepted_by) for client_info in flow.clients]
        flows[flow.key] = _Flow(clients, flow.drain_timeout, flow.draining)
    return flows
