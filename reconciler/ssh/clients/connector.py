"""Connects an accepted client to its destination: from the listener to the relay.

Moves each `ClientConnection` through its states until it relays. Input: an accepted socket (for remote forwards, a
channel request) and its listener. Output: a connection in `Flows`, or a rejected client; both are counted by result.

    accept -> rules -> (handshake) -> hold until a link is usable -> open the channel -> relay

While the link is down, a client waits here for at most its tunnel's `holdTimeout`. If the link dies while the channel
opens, or the server sends nothing, the client waits again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from reconciler.core.descriptor_budget import Budget
from reconciler.core.observed import ClientInfo, ClientResult
from reconciler.core.rules.admission import forbids
from reconciler.core.rules.origin import Origin
from reconciler.core.socks5 import Reply
from reconciler.core.spec import Socks, TunnelSpec
from reconciler.ssh.clients.accept_check import AcceptCheck
from reconciler.ssh.clients.connection import ClientConnection, ClientState, ConnectionRejected, ListenerClients
from reconciler.ssh.clients.connection_registry import ConnectionRegistry
from reconciler.ssh.clients.destination import remote_destination
from reconciler.ssh.clients.destination_health import DestinationHealth
from reconciler.ssh.clients.flows import Flows
from reconciler.ssh.clients.hold_queue import HoldQueue
from reconciler.ssh.clients.refusal_log import cut_summary
from reconciler.ssh.clients.relays import Relays
from reconciler.ssh.clients.remote_clients import RemoteClients
from reconciler.ssh.clients.socks import HANDSHAKE_TIME, SocksHandshake
from reconciler.ssh.errors.channel_errors import from_channel_open, socks_reply
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import Records
from reconciler.ssh.relay.client_socket import ClientSocket
from reconciler.ssh.relay.relay import Relay
from reconciler.system.event_loop.deadlines import Deadlines

log = logging.getLogger(__name__)

WRONG_LOGIN_PAUSE = 1.0  # seconds before the reply to a wrong SOCKS password, to slow down guessing
CLOSE_WITHIN = 1.0  # seconds that a refused client has to read the reply and close its connection


class ClientConnector:
    """Connects clients.

    select_link   returns a usable link of a target, or None
    wait          returns when a target may have a usable link
    changed       called when the planner should run again
    cut           called with a tunnel and a summary when an edit of its rules cut clients
    """

    def __init__(
        self,
        flows: Flows,
        environ: Mapping[str, str],
        *,
        budget: Budget,
        select_link: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
        cut: Callable[[TunnelSpec, str], None],
        records: Records,
        registry: ConnectionRegistry,
    ) -> None:
        self._flows = flows
        self._environ = environ
        self._records = records
        self._registry = registry
        self._cut = cut
        self.accept_check = AcceptCheck(budget, lambda target: select_link(target) is not None, records)
        self.destinations = DestinationHealth(environ, changed, records)
        self.hold_queue = HoldQueue(select_link, wait, changed, records)
        self._relays = Relays(flows, records, self.hold_queue, self.accept_check, registry)
        self.remote_clients = RemoteClients(self._relays, self.accept_check, self.destinations, registry, records)
        self._loop = asyncio.get_running_loop()
        self._handshakes = Deadlines(HANDSHAKE_TIME, SocksHandshake.time_over)
        self._tasks: set[asyncio.Task[object]] = set()

    def reject_waiting(self, listener: ListenerClients) -> None:
        """Reject the clients that wait at a listener, because its socket is closing."""
        for connection in tuple(listener.waiting):
            connection.cut("its listener is closing")

    async def close(self) -> None:
        """Reject all waiting clients, and wait until that is done."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.remote_clients.close()
        await self.destinations.close()

    # --- edits -------------------------------------------------------------------------------------------------

    def reapply(self, old: TunnelSpec, tunnel: TunnelSpec) -> None:
        """Apply a changed tunnel's rate limits and rules to its live clients. Drop failures of its old destination."""
        clients = self._records.tunnel(tunnel.id).clients
        if old.route != tunnel.route:
            clients.destination = None
        self.destinations.check_passwords(tunnel)
        throttles = clients.throttles(tunnel.policy.bandwidth_limit)
        cut: Counter[str] = Counter()
        for connection in self._flows.connections(tunnel=tunnel.id):
            connection.throttle(*throttles)
            if why := forbids(tunnel, connection.client):
                connection.cut(why)
                # Remove it now. Only the server's close reply is pending, and the next pass would drain it.
                self._flows.remove(connection)
                cut[why] += 1
        if cut:
            for target in {old.target, tunnel.target}:
                self.hold_queue.mark_used(target)
            self._report_cut(tunnel, cut)

    def _report_cut(self, tunnel: TunnelSpec, cut: Counter[str]) -> None:
        """Log one line for all clients that the edit cut, with the most common reasons."""
        summary = cut_summary(cut)
        fields = {"target": tunnel.target, "tunnel": tunnel.id, "labels": dict(tunnel.policy.labels) or None}
        log.info("tunnel %s: its new rules cut %s", tunnel.id, summary, extra=fields)
        self._cut(tunnel, summary)

    # --- clients of a socket here ------------------------------------------------------------------------------

    def accept(self, listener: ListenerClients, client: ClientSocket, origin: Origin) -> None:
        """Check a new client against the rules and start to connect it, or reset it.

        It needs a task only while it waits. With a usable link and no handshake, callbacks carry it to its relay.
        """
        if self.accept_check.refusal(listener, origin) is not None:
            client.reset()
            return
        is_socks = isinstance(listener.state.owner.route, Socks)
        state = ClientState.HANDSHAKE if is_socks else ClientState.HELD
        connection = self._registry.add(listener, client, origin, state)
        if is_socks:
            self._begin_handshake(connection)
        else:
            self._connect(connection)

    def _connect(self, connection: ClientConnection) -> None:
        """Open a channel on a usable link, or hold the client until there is one."""
        deadline = self._hold_until(connection)
        link = self.hold_queue.link_for(connection)
        if link is not None:
            self._open(connection, link, deadline)
        else:
            self._wait(connection, deadline)

    def _hold_until(self, connection: ClientConnection) -> float:
        return self._loop.time() + connection.tunnel.policy.hold_timeout

    def _begin_handshake(self, connection: ClientConnection) -> None:
        connection.listener.waiting.add(connection)
        guesses = self._records.tunnel(connection.tunnel.id).clients.guesses
        connection.handshake = SocksHandshake(
            connection,
            self._environ,
            guesses,
            self._handshakes,
            partial(self._run, connection),
            partial(self._handshake_ended, connection),
        )

    def _handshake_ended(self, connection: ClientConnection, outcome: ClientInfo | Exception | None) -> None:
        connection.handshake = None
        match outcome:
            case ClientInfo():
                connection.client = outcome
                try:
                    self._check_rules(connection)
                except ConnectionRejected as rejected:
                    self._reject_later(connection, rejected)
                else:
                    connection.enter(ClientState.HELD)
                    self._connect(connection)
            case ConnectionRejected():
                if outcome.result is ClientResult.AUTH_FAILED:
                    self.destinations.check_passwords(connection.tunnel)
                self._reject_later(connection, outcome)
            case Exception():
                self._relays.log_fault(connection, outcome)
                self._end(connection)
            case None:
                self._abandon(connection)

    def _wait(self, connection: ClientConnection, deadline: float) -> None:
        """Hold the client until there is a usable link, at most until `deadline`."""
        connection.listener.waiting.add(connection)
        self._run(connection, self._hold(connection, deadline))

    def _run(self, connection: ClientConnection, work: Coroutine[None, None, None]) -> None:
        connection.task = task = self._loop.create_task(work)

        # Not in the task itself: a task cancelled before its first step never runs, and the client would hang.
        def done(task: asyncio.Task[None]) -> None:
            if connection.task is task:
                connection.task = None
            if task.cancelled() and connection.handshake is not None:
                connection.handshake.cut()
            elif task.cancelled():
                self._abandon(connection)

        task.add_done_callback(done)
        self._keep_task(task)

    def _abandon(self, connection: ClientConnection) -> None:
        """Reset a client that is not counted: it was cut."""
        connection.socket.reset()
        self._end(connection)

    def _end(self, connection: ClientConnection) -> None:
        """Forget a client that got no channel."""
        connection.listener.waiting.discard(connection)
        self._registry.ended(connection)

    def _keep_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold(self, connection: ClientConnection, deadline: float) -> None:
        try:
            link = await self.hold_queue.hold(connection, deadline)
        except ConnectionRejected as rejected:
            await self._reject(connection, rejected)
        except Exception as error:  # noqa: BLE001 - a bug met by one client must not leave the client hanging
            self._relays.log_fault(connection, error)
            self._end(connection)
        else:
            self._open(connection, link, deadline)

    async def _reject(self, connection: ClientConnection, rejected: ConnectionRejected) -> None:
        """Refuse a client, with a reply if there is one."""
        self._relays.finish(connection, rejected.result, rejected.why)
        if rejected.result is ClientResult.AUTH_FAILED:
            await asyncio.sleep(WRONG_LOGIN_PAUSE)
        if rejected.reply and not connection.socket.lost:
            await connection.socket.refuse(rejected.reply, CLOSE_WITHIN)
        else:
            connection.socket.reset()
        self._end(connection)

    def _reject_later(self, connection: ClientConnection, rejected: ConnectionRejected) -> None:
        """Refuse a client from a callback: at once, unless it gets a reply."""
        if rejected.reply:
            self._run(connection, self._reject(connection, rejected))
        else:
            self._relays.finish(connection, rejected.result, rejected.why)
            connection.socket.reset()
            self._end(connection)

    def _check_rules(self, connection: ClientConnection) -> None:
        if why := forbids(connection.tunnel, connection.client):
            raise ConnectionRejected(ClientResult.DENIED, why, connection.reply(Reply.NOT_ALLOWED))

    def _open(self, connection: ClientConnection, link: Link, deadline: float) -> None:
        """Open a channel. If the link dies meanwhile, the client waits again, until `deadline`."""
        try:
            self._request_channel(connection, link, deadline)
        except ConnectionRejected as rejected:
            self._reject_later(connection, rejected)
        except Exception as error:  # noqa: BLE001 - as in _hold
            self._relays.log_fault(connection, error)
            self._end(connection)

    def _request_channel(self, connection: ClientConnection, link: Link, deadline: float) -> None:
        tunnel, client = connection.tunnel, connection.client  # it may have been edited while the client waited
        if isinstance(tunnel.route, Socks) is not (client.requested is not None):  # an edit made it another kind
            raise ConnectionRejected(ClientResult.DENIED, reply=connection.reply(Reply.GENERAL_FAILURE))
        self._check_rules(connection)
        connection.enter(ClientState.OPENING)
        relay = self._relays.start(connection, tunnel, link)
        relay.send_on_open = connection.reply(Reply.SUCCEEDED)

        def answered(error: Exception | None, seconds: float) -> None:
            self._records.target(tunnel.target).dials.observe(seconds)
            if error is None:
                self._opened(connection, tunnel)
            elif link.gone:
                self._hold_again(connection, relay, deadline)
            elif isinstance(error, ServerSilent):  # its hold begins now: until now there seemed to be a link
                self._hold_again(connection, relay, self._hold_until(connection))
            else:
                self._open_failed(connection, tunnel, link, relay, error)

        link.open(relay, remote_destination(tunnel.route, client.requested), client.origin, answered)

    def _hold_again(self, connection: ClientConnection, relay: Relay, deadline: float) -> None:
        relay.abandon()
        self._relays.leave(connection)
        connection.drop_link()
        connection.enter(ClientState.HELD)
        self._wait(connection, deadline)

    def _open_failed(
        self, connection: ClientConnection, tunnel: TunnelSpec, link: Link, relay: Relay, error: Exception
    ) -> None:
        failure = from_channel_open(error, connection.to, link.dialled.server)
        if connection.client.requested is None:  # the destination of one SOCKS client says nothing about the next's
            self.destinations.unreachable(connection.listener, tunnel, failure)
        relay.request = None
        reply = connection.reply(Reply(socks_reply(error)))
        self._reject_later(connection, ConnectionRejected(ClientResult.DIAL_FAILED, failure.message, reply))

    def _opened(self, connection: ClientConnection, tunnel: TunnelSpec) -> None:
        """Note that the channel is open."""
        if connection.client.requested is None and connection.listener.still_leads_to(tunnel):
            self.destinations.reached(connection.listener.state.owner)
        if connection.state is ClientState.OPENING:
            self._registry.opened(connection)
            self._relays.finish(connection, ClientResult.OK)
