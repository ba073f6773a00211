"""The live clients, grouped into flows: the clients of one tunnel that share a route and a link.

Owns each relay from the choice of its link until both its ends are closed. Input: relays, and the planner's Drain and
Cut. Output: `FlowState`s. Calls `emptied` with the key of a flow when its last client has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from reconciler.core.observed import ClientInfo, Draining, FlowKey, FlowState, SocketKey
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.relay.relay import Meter, Relay


@dataclass(slots=True)
class _Group:
    drain_timeout: float
    relays: dict[Relay, SocketKey] = field(default_factory=dict)  # each with the socket that accepted it
    draining: Draining | None = None
    clients: tuple[ClientInfo, ...] | None = (
        None  # of `relays`; None: to be made, when a pass asks, not at each arrival
    )


class Flows:
    """The live clients by flow. `emptied` is called with the key of a flow whose last client has left."""

    def __init__(self, emptied: Callable[[FlowKey], None]) -> None:
        self._emptied = emptied
        self._groups: dict[FlowKey, _Group] = {}
        self._keys: dict[Relay, FlowKey] = {}
        self._on_link: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, relay: Relay, key: FlowKey, accepted_by: SocketKey, drain_timeout: float) -> None:
        group = self._groups.setdefault(key, _Group(drain_timeout))
        group.drain_timeout = drain_timeout
        group.relays[relay] = accepted_by
        group.clients = None
        self._keys[relay] = key
        self._on_link[key.link] = self._on_link.get(key.link, 0) + 1
        relay.meter.active += 1

    def remove(self, relay: Relay) -> None:
        key = self._keys.get(relay)
        if key is None:
            return  # it was removed when it was cut, and has ended only now
        self._discard(relay)
        if key not in self._groups:
            self._emptied(key)

    def _discard(self, relay: Relay) -> None:
        """Remove a relay without a call of `emptied`: on a retiring link, its last client may be added again."""
        key = self._keys.pop(relay)
        self._on_link[key.link] -= 1
        relay.meter.active -= 1
        group = self._groups[key]
        del group.relays[relay]
        group.clients = None
        if not group.relays:
            del self._groups[key]
            if not self._on_link[key.link]:
                del self._on_link[key.link]

    def tunnel_of(self, relay: Relay) -> str | None:
        """Return the id of the tunnel that a relay belongs to now, None if it was removed."""
        key = self._keys.get(relay)
        return key.tunnel if key is not None else None

    def on_link(self, link: int) -> int:
        """Return how many clients a link carries."""
        return self._on_link.get(link, 0)

    def relays(self, *, link: int | None = None, tunnel: str | None = None) -> Iterator[Relay]:
        """Yield the relays of a link, of a tunnel, or all. Relays may be removed during the iteration."""
        for relay, key in tuple(self._keys.items()):
            if link in (None, key.link) and tunnel in (None, key.tunnel):
                yield relay

    def tunnels(self) -> set[str]:
        """Return the ids of tunnels that have live clients."""
        return {key.tunnel for key in self._groups}

    def drain(self, key: FlowKey, draining: Draining | None) -> None:
        """Set or clear the drain deadline of a flow."""
        if key in self._groups:
            self._groups[key].draining = draining

    def cut(self, key: FlowKey, why: str) -> None:
        """Cut the clients of a flow now. They no longer count, even before the server answers their close.

        If cutting one raises, which is an internal error, the others are cut nevertheless.
        """
        group = self._groups.get(key)
        fault: Exception | None = None
        for relay in tuple(group.relays) if group else ():
            try:
                relay.cut(why)
                self.remove(relay)
            except Exception as error:  # noqa: BLE001 - raised below
                fault = error
        if fault is not None:
            raise fault

    def hand_over(self, socket: SocketKey, old: TunnelSpec, new: TunnelSpec, meter: Meter) -> None:
        """Move the clients of a socket to its new owner, if its route is that of the old owner."""
        if old.id == new.id:
            return
        for key, group in tuple(self._groups.items()):
            if key.tunnel != old.id or key.route != new.route:
                continue
            moved = replace(key, tunnel=new.id)
            for relay in [relay for relay, accepted_by in group.relays.items() if accepted_by == socket]:
                self._groups.setdefault(moved, _Group(new.policy.drain_timeout, draining=group.draining))
                self._discard(relay)
                relay.meter = meter
                self.add(relay, moved, socket, new.policy.drain_timeout)

    def reapply(self, tunnel: TunnelSpec) -> None:
        """Apply a changed `drainTimeout` to the tunnel's live clients."""
        for key, group in self._groups.items():
            if key.tunnel == tunnel.id:
                group.drain_timeout = tunnel.policy.drain_timeout

    def states(self) -> tuple[FlowState, ...]:
        return tuple(
            FlowState(key, _clients(group), group.drain_timeout, group.draining) for key, group in self._groups.items()
        )


def _clients(group: _Group) -> tuple[ClientInfo, ...]:
    if group.clients is None:
        group.clients = tuple(relay.client_info for relay in group.relays)
    return group.clients
