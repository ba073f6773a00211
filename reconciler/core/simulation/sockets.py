"""The listening sockets of the simulator, and their failed tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, MutableMapping
from dataclasses import replace

from reconciler.core import backoff
from reconciler.core.actions import Action, Assign, Close, Move, Open
from reconciler.core.addresses import Addresses, is_choice, is_remote
from reconciler.core.observed import Failure, Observed, Reason, SocketKey, SocketPhase, SocketState
from reconciler.core.simulation.impossible import ImpossibleError, require
from reconciler.core.simulation.links import SimulatedLinks
from reconciler.core.spec import Desired, Listen, TunnelSpec


class SimulatedSockets:
    """All sockets by key. An opening or closing socket is also an entry of `unfinished`, owned by the simulator."""

    def __init__(self, observed: Observed, unfinished: MutableMapping[int | SocketKey, None]) -> None:
        self.by_key = dict(observed.sockets)
        self.tries = dict(observed.socket_tries)
        self._addresses = Addresses(key.listen for key in self.by_key)
        self._choices = 0
        self._unfinished = unfinished

    def check(self) -> None:
        """Raise ImpossibleError if an invariant between two passes does not hold."""
        owners = Counter(s.owner.id for s in self.by_key.values() if s.phase is not SocketPhase.CLOSING)
        for owner, count in owners.items():
            require(count == 1, f"one socket for one tunnel, not {count}", owner)
        for socket in self.by_key.values():
            fits = socket.phase is SocketPhase.CLOSING or socket.owner.listen == socket.key.listen
            require(fits, "a socket whose owner wants its address", socket)

    # --- actions ---

    def open(self, step: Open, desired: Desired, links: SimulatedLinks) -> None:
        listen = step.key.listen
        require(step.key not in self.by_key, "a socket that is not there yet", step)
        require(not self._addresses.meets(listen), "an address that is free", step)
        require(listen == step.tunnel.listen and _is_wanted(step.tunnel, desired), "a tunnel wanted there", step)
        require(is_remote(listen) == (step.link is not None), "a link for a remote listener, and for no other", step)
        if step.link is not None:
            require(links.ready(step.link, step).target == step.tunnel.target, "a link of its target", step)
        self._addresses.add(listen)
        self._begin(SocketState(step.key, step.tunnel, SocketPhase.OPENING, step.link, ""))

    def close(self, step: Close) -> None:
        self._begin(replace(self._live(step.key, step), phase=SocketPhase.CLOSING))

    def assign(self, step: Assign, desired: Desired) -> TunnelSpec:
        """Give the socket a new owner. Return the previous one."""
        socket, tunnel = self._live(step.key, step), step.tunnel
        require(step.key.listen == tunnel.listen and _is_wanted(tunnel, desired), "a tunnel wanted there", step)
        self.by_key[step.key] = replace(socket, owner=tunnel)
        return socket.owner

    def move(self, step: Move, links: SimulatedLinks) -> None:
        socket, link = self._live(step.key, step), links.ready(step.link, step)
        bound = socket.phase is SocketPhase.BOUND
        require(bound and socket.link not in (None, link.id), "a remote listener, to another link", step)
        require(link.target == socket.owner.target, "a link of its target", step)
        self._begin(replace(socket, phase=SocketPhase.OPENING, link=link.id))

    # --- events ---

    def finish(self, key: SocketKey, failure: Failure | None, busy: Collection[Listen], now: float) -> None:
        """Finish opening or closing. A socket that closed or failed to open is removed."""
        socket = self.by_key[key]
        if socket.phase is SocketPhase.CLOSING:
            self.remove(key)
            return
        if failure is None and key.listen in busy:
            reason = Reason.LOCAL_PORT_IN_USE if socket.link is None else Reason.REMOTE_PORT_IN_USE
            failure = Failure(reason, "another program listens on this address")
        if failure is not None:
            self.remove(key)
            self.tries[key] = backoff.failed(self.tries.get(key), failure, now, None, "")
            return
        self.tries.pop(key, None)
        bound = socket.bound or self._bound_address(key.listen)
        self.by_key[key] = replace(socket, phase=SocketPhase.BOUND, bound=bound)

    def on_link(self, link_id: int) -> list[SocketKey]:
        """Return the remote listeners that depend on this link."""
        return [socket.key for socket in self.by_key.values() if socket.link == link_id]

    def remove(self, key: SocketKey) -> None:
        del self.by_key[key]
        self._unfinished.pop(key, None)
        self._addresses.remove(key.listen)

    def _begin(self, socket: SocketState) -> None:
        self.by_key[socket.key] = socket
        self._unfinished[socket.key] = None

    def _bound_address(self, listen: Listen) -> str:
        """Return the bound address. A chosen port gets a unique text instead of a real number."""
        if not is_choice(listen):
            return str(listen)
        self._choices += 1
        return f"{listen} chosen as number {self._choices}"

    def _live(self, key: SocketKey, action: Action) -> SocketState:
        socket = self.by_key.get(key)
        if socket is None or socket.phase is SocketPhase.CLOSING:
            raise ImpossibleError(f"expected a socket that is there and not closing: {action}")
        return socket


def _is_wanted(tunnel: TunnelSpec, desired: Desired) -> bool:
    return tunnel.off is None and desired.tunnels.get(tunnel.id) == tunnel
