"""The in-memory actuator: links, sockets and clients without any packets.

`tunnels plan` runs the planner against an instant simulator, where every action succeeds at once (plan.py). The tests
run it against one that is not instant: they choose what finishes, what fails and when. Both raise ImpossibleError for
an action that cannot be carried out, so every use also checks the planner.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import assert_never

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.observed import ClientInfo, Failure, FlowKey, LinkPhase, Now, Observed, SocketKey, SocketPhase
from reconciler.core.simulation.clients import Client, SimulatedClients
from reconciler.core.simulation.links import SimulatedLinks
from reconciler.core.simulation.sockets import SimulatedSockets
from reconciler.core.spec import NOTHING, Desired, Endpoint, Listen


class Simulator:
    """An actuator and a clock, with methods for the events that a test wants to happen.

    instant        what can finish does so at once; otherwise on `finish` or `settle`
    unreachable    SSH servers that cannot be reached
    busy           addresses that another program holds
    stalled        links that may be dead
    fingerprints   as in `Observed`
    touched        the live clients that the latest action affected; removing a deadline affects none
    """

    def __init__(self, observed: Observed, now: Now, *, instant: bool) -> None:
        self.instant = instant
        self.unreachable: set[Endpoint] = set()
        self.busy: set[Listen] = set()
        self.stalled = set(observed.stalled)
        self.fingerprints = dict(observed.fingerprints)
        self.touched: frozenset[Client] = frozenset()
        self._desired = NOTHING
        self._now = now
        # Links and sockets in the order in which they began; a dict, because a set has no order.
        self._unfinished: dict[int | SocketKey, None] = dict.fromkeys(
            [link.id for link in observed.links if link.phase is not LinkPhase.READY]
            + [key for key, socket in observed.sockets.items() if socket.phase is not SocketPhase.BOUND]
        )
        self._links = SimulatedLinks(observed, self._unfinished)
        self._sockets = SimulatedSockets(observed, self._unfinished)
        self._clients = SimulatedClients(observed, self._links)
        if instant:
            self.settle()

    # --- the interface of the loop (interfaces.Actuator, interfaces.Clock) ---

    def set_desired(self, desired: Desired) -> None:
        self._desired = desired
        self._links.set_desired(desired)

    def now(self) -> Now:
        return self._now

    def observe(self) -> Observed:
        self._links.drop_recovered(self._now.mono)
        return Observed(
            links=tuple(self._links.by_id.values()),
            sockets=MappingProxyType(dict(self._sockets.by_key)),
            flows=self._clients.flows(),
            link_tries=MappingProxyType(dict(self._links.tries)),
            socket_tries=MappingProxyType(dict(self._sockets.tries)),
            demand=MappingProxyType(self._clients.demand(self._sockets.by_key)),
            fingerprints=MappingProxyType(dict(self.fingerprints)),
            destinations=MappingProxyType({}),
            probes=MappingProxyType({}),
            stalled=frozenset(self.stalled & self._links.by_id.keys()),
        )

    def apply(self, action: Action) -> None:
        self.touched = frozenset(self._carry_out(action))
        if self.instant:
            self.settle()

    def _carry_out(self, action: Action) -> Iterable[Client]:
        """Carry out an action. Return the clients that it affects."""
        match action:
            case Dial():
                self._links.dial(action, self._desired, self._now.mono)
            case Retire():
                self._links.retire(action, self._now.mono)
                return self._clients.on_link(action.link)
            case Tune():
                self._links.tune(action)
            case Open():
                self._sockets.open(action, self._desired, self._links)
            case Close():
                self._sockets.close(action)
            case Assign():
                previous = self._sockets.assign(action, self._desired)
                return self._clients.assign(action, previous, self._now.mono)
            case Move():
                self._sockets.move(action, self._links)
            case Drain(flow=flow, draining=draining):
                return self._clients.drain(flow, draining, action)
            case Cut(flow=flow):
                return self._clients.cut(flow, action)
            case _:
                assert_never(action)
        return ()

    def check(self) -> None:
        """Raise ImpossibleError if an invariant between two passes does not hold."""
        self._sockets.check()

    # --- events ---

    def elapse(self, seconds: float) -> None:
        """Advance both clocks."""
        self._now = Now(self._now.mono + seconds, self._now.wall + seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as by NTP or after a laptop slept."""
        self._now = Now(self._now.mono, self._now.wall + seconds)

    def under_way(self) -> tuple[int | SocketKey, ...]:
        """Return the links and sockets that could `finish` now."""
        return tuple(what for what in self._unfinished if isinstance(what, SocketKey) or self._can_finish(what))

    def settle(self) -> None:
        """Finish everything that can finish, with success unless it is `unreachable` or `busy`."""
        while ready := self.under_way():
            for what in ready:
                if what in self._unfinished:
                    self.finish(what)

    def finish(self, what: int | SocketKey, failure: Failure | None = None) -> None:
        """Finish a dial, the opening of a socket, or a close. `failure` makes a dial or an opening fail."""
        del self._unfinished[what]
        if isinstance(what, SocketKey):
            self._sockets.finish(what, failure, self.busy, self._now.mono)
            if what not in self._sockets.by_key:
                self._clients.drop_held_at(what)
            return
        link = self._links.by_id[what]
        if link.phase is not LinkPhase.DIALING:
            self._links.remove(what)
        elif failure := failure or self._links.connect(link, self.unreachable, self._now.mono):
            self.lose(what, failure)
        else:
            self._clients.admit_held(self._sockets.by_key, self._now.mono)

    def lose(self, link_id: int, failure: Failure) -> None:
        """Break a connection. Its clients and its listeners on the server are gone with it."""
        link = self._links.remove(link_id)
        self._clients.remove_link(link_id, link.target, self._now.mono)
        for key in self._sockets.on_link(link_id):
            self._sockets.remove(key)
            self._clients.drop_held_at(key)
        fingerprint = self.fingerprints.get(link.target, "")
        self._links.record_failure(link, failure, self._desired, self._now.mono, fingerprint)

    def distrust(self, link_id: int) -> None:
        """Remove the link's host key from the trusted ones."""
        self._links.set_trusted(link_id, False)

    def trust_again(self, link_id: int) -> None:
        """Put the link's host key back among the trusted ones."""
        self._links.set_trusted(link_id, True)

    def arrive(self, tunnel_id: str, client_info: ClientInfo | None = None) -> FlowKey | None:
        """Connect a client to the tunnel's socket; by default one that its rules admit.

        Return None if the client is held, or refused because no socket is bound.
        """
        for socket in self._sockets.by_key.values():
            if socket.owner.id == tunnel_id and socket.phase is SocketPhase.BOUND:
                return self._clients.accept(socket, self._now.mono, client_info)
        return None

    def leave(self, flow: FlowKey) -> None:
        """Disconnect one client of this flow."""
        self._clients.leave(flow, self._now.mono)

    def give_up(self) -> None:
        """Disconnect all held clients."""
        self._clients.drop_held()

    def _can_finish(self, link_id: int) -> bool:
        """Return True for a dial, and for a retiring link that no client and no listener uses."""
        if self._links.by_id[link_id].phase is LinkPhase.DIALING:
            return True
        return not self._clients.use(link_id) and not self._sockets.on_link(link_id)
