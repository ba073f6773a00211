"""Connects the clients of listeners on servers: checks the rules, dials the destination here, starts the relay.

Input: a channel that a server asks for, and its listener. Output: a connection in `Flows`, or a refused channel.
"""

from __future__ import annotations

import asyncio
import socket

from reconciler.core.observed import ClientResult
from reconciler.core.rules.admission import forbids
from reconciler.core.rules.origin import Origin
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import WaitingHandler
from reconciler.ssh.channels.messages import OpenError
from reconciler.ssh.channels.mux import Refusal
from reconciler.ssh.clients.accept_check import AcceptCheck
from reconciler.ssh.clients.connection import ClientConnection, ClientState, ListenerClients
from reconciler.ssh.clients.connection_registry import ConnectionRegistry
from reconciler.ssh.clients.destination import dial_local
from reconciler.ssh.clients.destination_health import DestinationHealth
from reconciler.ssh.clients.relays import Relays
from reconciler.ssh.errors.channel_errors import from_channel_open
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import Records
from reconciler.ssh.relay.client_socket import ClientSocket


class OfferedChannel(WaitingHandler):
    """The handler of a channel that a server asks for, while the destination is dialled."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.is_closed = False  # refused, or its link has ended

    def refuse(self, code: OpenError, reason: str) -> None:
        """Refuse it, unless that is done."""
        if not self.is_closed:
            self.is_closed = True
            self.channel.refuse(code, reason)

    def closed(self, reason: str) -> None:
        self.is_closed = True


class RemoteClients:
    """Connects clients, each in a task that ends when its relay starts."""

    def __init__(
        self,
        relays: Relays,
        accept_check: AcceptCheck,
        destinations: DestinationHealth,
        registry: ConnectionRegistry,
        records: Records,
    ) -> None:
        self._relays = relays
        self._accept_check = accept_check
        self._destinations = destinations
        self._registry = registry
        self._records = records
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Refuse the clients whose destinations are being dialled."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def accept(
        self, listener: ListenerClients, link: Link, channel: Channel, origin: Origin
    ) -> OfferedChannel | Refusal:
        """Serve a client, or refuse it by the rules."""
        refusal = self._accept_check.refusal(listener, origin)
        if refusal is ClientResult.DENIED:
            return Refusal(OpenError.PROHIBITED, "not allowed")
        place = self._accept_check.take_place(listener, origin) if refusal is None else None
        if place is None:
            return Refusal(OpenError.RESOURCE_SHORTAGE, "too many connections")
        connection = self._registry.add(listener, ClientSocket(place=place), origin, ClientState.OPENING)
        listener.waiting.add(connection)
        offered = OfferedChannel(channel)
        task = self._loop.create_task(self._serve(connection, link, offered))
        self._tasks.add(task)

        # Not in the task itself: a task cancelled before its first step never runs.
        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            listener.waiting.discard(connection)
            if connection.state is ClientState.OPENING:
                connection.socket.reset()
                self._registry.ended(connection)
            offered.refuse(OpenError.CONNECT_FAILED, "the program is shutting down")  # if it is neither yet

        task.add_done_callback(done)
        return offered

    async def _serve(self, connection: ClientConnection, link: Link, offered: OfferedChannel) -> None:
        listener = connection.listener
        tunnel = listener.state.owner
        try:
            connection.socket.attach(await self._dial(connection, tunnel, link))
            # All may have changed during the dial.
            if link.gone or offered.is_closed or forbids(listener.state.owner, connection.client):
                offered.refuse(OpenError.PROHIBITED, "no longer allowed")
            else:
                self._relay(connection, tunnel, link, offered)
        except OSError:
            offered.refuse(OpenError.CONNECT_FAILED, "the destination cannot be reached")
        except Exception as error:  # noqa: BLE001 - a bug met by one client must not leave it hanging
            self._relays.log_fault(connection, error)
            offered.refuse(OpenError.CONNECT_FAILED, "internal error")

    def _relay(self, connection: ClientConnection, tunnel: TunnelSpec, link: Link, offered: OfferedChannel) -> None:
        listener = connection.listener
        if listener.still_leads_to(tunnel):
            tunnel = listener.state.owner  # it may have been renamed
            self._destinations.reached(tunnel)
        relay = self._relays.start(connection, tunnel, link)
        self._registry.opened(connection)
        self._relays.finish(connection, ClientResult.OK)
        offered.is_closed = True  # it cannot be refused any more
        offered.channel.accept()
        relay.start(offered.channel)

    async def _dial(self, connection: ClientConnection, tunnel: TunnelSpec, link: Link) -> socket.socket:
        started = self._loop.time()
        try:
            return await dial_local(tunnel.route, link.dial_timeout)
        except OSError as error:
            failure = from_channel_open(error, str(tunnel.route))
            self._destinations.unreachable(connection.listener, tunnel, failure)
            self._relays.finish(connection, ClientResult.DIAL_FAILED, failure.message)
            raise
        finally:
            self._records.target(tunnel.target).dials.observe(self._loop.time() - started)
