"""The live clients, grouped by what decides their fate: tunnel, route and link.

Owns every relay from the moment its link is chosen until both its ends are closed. In: relays, and the planner's
Drain and Cut. Out: `FlowState`s, and `emptied` with each group's key when its last client has left.
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
    relays: dict[Relay, SocketKey] = field(default_factory=dict)  # each with the socket it came in by
    draining: Draining | None = None
    visitors: tuple[ClientInfo, ...] | None = (
        None  # of `relays`; None: to be made, when a pass asks, not at each arrival
    )


class Flows:
    """See the module."""

    def __init__(self, emptied: Callable[[FlowKey], None]) -> None:
        self._emptied = emptied
        self._groups: dict[FlowKey, _Group] = {}
        self._keys: dict[Relay, FlowKey] = {}
        self._on_link: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, relay: Relay, key: FlowKey, came_by: SocketKey, drain_timeout: float) -> None:
        group = self._groups.setdefault(key, _Group(drain_timeout))
        group.drain_timeout = drain_timeout
        group.relays[relay] = came_by
        group.visitors = None
        self._keys[relay] = key
        self._on_link[key.link] = self._on_link.get(key.link, 0) + 1
        relay.meter.active += 1

    def remove(self, relay: Relay) -> None:
        key = self._keys.get(relay)
        if key is None:
            return  # it was cut, and has ended only now
        self._take_out(relay)
        if key not in self._groups:
            self._emptied(key)

    def _take_out(self, relay: Relay) -> None:
        """Telling nobody: who was the last one on a retiring link may come back in, and the link with it."""
        key = self._keys.pop(relay)
        self._on_link[key.link] -= 1
        relay.meter.active -= 1
        group = self._groups[key]
        del group.relays[relay]
        group.visitors = None
        if not group.relays:
            del self._groups[key]
            if not self._on_link[key.link]:
                del self._on_link[key.link]

    def tunnel_of(self, relay: Relay) -> str | None:
        """Whose client it is now."""
        key = self._keys.get(relay)
        return key.tunnel if key is not None else None

    def on_link(self, link: int) -> int:
        """How many clients a link carries."""
        return self._on_link.get(link, 0)

    def relays(self, *, link: int | None = None, tunnel: str | None = None) -> Iterator[Relay]:
        """The relays of a link or of a tunnel, or all; safe to end while iterating."""
        for relay, key in tuple(self._keys.items()):
            if link in (None, key.link) and tunnel in (None, key.tunnel):
                yield relay

    def tunnels(self) -> set[str]:
        """The ids of tunnels that have live clients."""
        return {key.tunnel for key in self._groups}

    def drain(self, key: FlowKey, draining: Draining | None) -> None:
        if key in self._groups:
            self._groups[key].draining = draining

    def cut(self, key: FlowKey, why: str) -> None:
        """End them now. They count as gone from here on, whenever the server answers their close.

        Where ending one raises, which is a fault of this program, the others are ended all the same.
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
        """A socket changed owner: clients that came in by it and go where the new owner goes are the new owner's."""
        if old.id == new.id:
            return
        for key, group in tuple(self._groups.items()):
            if key.tunnel != old.id or key.route != new.route:
                continue
            moved = replace(key, tunnel=new.id)
            for relay in [relay for relay, came_by in group.relays.items() if came_by == socket]:
                self._groups.setdefault(moved, _Group(new.policy.drain_timeout, draining=group.draining))
                self._take_out(relay)
                relay.meter = meter
                self.add(relay, moved, socket, new.policy.drain_timeout)

    def reapply(self, tunnel: TunnelSpec) -> None:
        """The tunnel's policy changed: so long may its clients of now stay when they have to leave."""
        for key, group in self._groups.items():
            if key.tunnel == tunnel.id:
                group.drain_timeout = tunnel.policy.drain_timeout

    def states(self) -> tuple[FlowState, ...]:
        return tuple(
            FlowState(key, _visitors(group), group.drain_timeout, group.draining) for key, group in self._groups.items()
        )


def _visitors(group: _Group) -> tuple[ClientInfo, ...]:
    if group.visitors is None:
        group.visitors = tuple(relay.client_info for relay in group.relays)
    return group.visitors
