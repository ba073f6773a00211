"""The records of listen addresses, and of the listener at each.

Owns the record of an address while it has a listener, or failed tries, or a link that does not release it. Input:
changes by the other modules of this package. Output: `SocketState`s and `Tries` for the observed state.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from reconciler.core.descriptor_budget import Place
from reconciler.core.observed import SocketKey, SocketPhase, SocketState, Tries
from reconciler.core.spec import Desired, TunnelSpec
from reconciler.ssh.clients.connection import ListenerClients
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.remote_listeners import RemoteListener
from reconciler.ssh.listeners.acceptor import Acceptor
from reconciler.system.bind import Bound


@dataclass(slots=True, eq=False)
class AddressRecord:
    """What is known about one listen address: its listener, and what outlives it.

    tries       the failed tries to listen there since the last success
    refused_on  the link on which the server last refused to listen
    unreleased  a replaced link whose server does not release the address
    """

    key: SocketKey
    listener: Listener | None = None
    tries: Tries | None = None
    refused_on: int | None = None
    unreleased: Link | None = None

    def clear_history(self) -> None:
        """Forget everything but the listener."""
        self.tries = self.refused_on = self.unreleased = None

    @property
    def is_unused(self) -> bool:
        return self.listener is None and self.tries is None and self.unreleased is None


@dataclass(slots=True, eq=False, kw_only=True)
class Listener(ListenerClients):
    """The record of one listener: its state and clients, and the resources that it uses.

    bound, places, acceptors  here: its sockets, their places in the descriptor budget, and what accepts clients
    forward, carrier          on a server: the listener there, and the link that carries it
    task                      opens, moves or closes it
    """

    address: AddressRecord
    bound: Bound | None = None
    places: list[Place] = field(default_factory=list)
    acceptors: list[Acceptor] = field(default_factory=list)
    forward: RemoteListener | None = None
    carrier: Link | None = None
    task: asyncio.Task[None] | None = None


class AddressRecords:
    """The records of all listen addresses, by the key that the planner gives them."""

    def __init__(self) -> None:
        self._addresses: dict[SocketKey, AddressRecord] = {}

    def get(self, key: SocketKey) -> AddressRecord | None:
        return self._addresses.get(key)

    def all(self) -> tuple[AddressRecord, ...]:
        return tuple(self._addresses.values())

    def listener(self, key: SocketKey) -> Listener:
        """Return the listener at an address. Raises KeyError if there is none."""
        listener = self._addresses[key].listener
        if listener is None:
            raise KeyError(key)
        return listener

    def listeners(self) -> list[Listener]:
        return [address.listener for address in self._addresses.values() if address.listener is not None]

    def add(self, key: SocketKey, owner: TunnelSpec, link: int | None) -> Listener:
        """Return a new listener, which is to be opened."""
        address = self._addresses.setdefault(key, AddressRecord(key))
        address.listener = Listener(address=address, state=SocketState(key, owner, SocketPhase.OPENING, link, ""))
        return address.listener

    def drop_unused(self, address: AddressRecord) -> None:
        """Drop the record of an address, unless something is known about it."""
        if address.is_unused:
            self._addresses.pop(address.key, None)

    def prune(self, desired: Desired) -> None:
        """Forget everything but the listeners about addresses that are not desired."""
        listens = {tunnel.listen for tunnel in desired.tunnels.values()}
        for address in self.all():
            if address.key.listen not in listens:
                address.clear_history()
                self.drop_unused(address)

    # --- observed state ----------------------------------------------------------------------------------------

    def on_link(self, number: int) -> int:
        """Return how many listeners a link carries."""
        return sum(listener.state.link == number for listener in self.listeners())

    def states(self) -> dict[SocketKey, SocketState]:
        return {listener.state.key: listener.state for listener in self.listeners()}

    def tries(self) -> dict[SocketKey, Tries]:
        return {address.key: address.tries for address in self._addresses.values() if address.tries is not None}
