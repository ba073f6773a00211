"""Connects an accepted client to its destination: from the listener to the relay.

Moves each `ClientConnection` through its states until it relays. Input: an accepted socket (for remote forwards, a
channel request) and its listener. Output: a connection in `Flows`, or a rejected client; both are counted by result.

    accept -> rules -> (handshake) -> hold until a link is usable -> open the channel -> relay

While the link is down, a client waits here for at most its tunnel's `holdTimeout`. If the link dies while the channel
opens, the client waits again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import asyncssh

from reconciler.core.descriptor_budget import Budget
from reconciler.core.observed import ClientInfo, ClientResult
from reconciler.core.rules.admission import forbids
from reconciler.core.rules.origin import Origin
from reconciler.core.socks5 import Reply
from reconciler.core.spec import Socks, TunnelSpec
from reconciler.ssh.clients.accept_check import AcceptCheck
from reconciler.ssh.clients.connection import ClientConnection, ClientState, ConnectionRejected, ListenerClients
from reconciler.ssh.clients.connection_registry import ConnectionRegistry
from reconciler.ssh.clients.destination import dial_local, remote_destination
from reconciler.ssh.clients.destination_health import DestinationHealth
from reconciler.ssh.clients.flows import Flows
from reconciler.ssh.clients.hold_queue import HoldQueue
from reconciler.ssh.clients.refusal_log import cut_summary
from reconciler.ssh.clients.socks import run_handshake
from reconciler.ssh.errors.channel_errors import from_channel_open, socks_reply
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import Records
from reconciler.ssh.relay.client_transport import ClientTransport
from reconciler.ssh.relay.relay import ChannelSession, Relay

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
        self._loop = asyncio.get_running_loop()
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

    def _finish(self, connection: ClientConnection, result: ClientResult, why: str = "") -> None:
        """Count the result of a client's attempt to connect, and log it unless `why` is ""."""
        connection.result = result
        self.accept_check.refuse(connection.tunnel, result, connection.client.origin, why)

    # --- clients of a socket here ------------------------------------------------------------------------------

    def accept(self, listener: ListenerClients, transport: ClientTransport, origin: Origin) -> None:
        """Check a new client against the rules and start to connect it, or reset it."""
        if self.accept_check.refusal(listener, origin) is not None:
            transport.reset()
            return
        is_socks = isinstance(listener.state.owner.route, Socks)
        state = ClientState.HANDSHAKE if is_socks else ClientState.HELD
        connection = self._registry.add(listener, transport, origin, state)
        connection.task = task = self._loop.create_task(self._serve(connection))
        listener.waiting.add(connection)

        # Not in the task itself: a task cancelled before its first step never runs, and the client would hang.
        def done(task: asyncio.Task[None]) -> None:
            connection.task = None
            listener.waiting.discard(connection)
            if connection.state is not ClientState.RELAYING:
                self._registry.ended(connection)
            if task.cancelled():
                transport.reset()

        task.add_done_callback(done)
        self._keep_task(task)

    def _keep_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: ClientConnection) -> None:
        try:
            if connection.state is ClientState.HANDSHAKE:
                connection.client = await self._run_socks_handshake(connection)
                self._check_rules(connection)
                connection.enter(ClientState.HELD)
            deadline = self._loop.time() + connection.tunnel.policy.hold_timeout
            while not await self._connect(connection, deadline):
                pass
        except ConnectionRejected as rejected:
            await self._reject(connection, rejected)
        except Exception:  # a bug met by one client must be logged, and must not leave the client hanging
            log.exception("%s: internal error while a client connected: please report it", connection.tunnel.id)
            connection.transport.reset()

    async def _reject(self, connection: ClientConnection, rejected: ConnectionRejected) -> None:
        self._finish(connection, rejected.result, rejected.why)
        if rejected.result is ClientResult.AUTH_FAILED:
            await asyncio.sleep(WRONG_LOGIN_PAUSE)
        if rejected.reply and not connection.transport.lost:
            await connection.transport.refuse(rejected.reply, CLOSE_WITHIN)
        else:
            connection.transport.reset()

    async def _run_socks_handshake(self, connection: ClientConnection) -> ClientInfo:
        tunnel = connection.tunnel
        try:
            return await run_handshake(connection, self._environ, self._records.tunnel(tunnel.id).clients.guesses)
        except ConnectionRejected as rejected:
            if rejected.result is ClientResult.AUTH_FAILED:
                self.destinations.check_passwords(tunnel)
            raise

    def _check_rules(self, connection: ClientConnection) -> None:
        if why := forbids(connection.tunnel, connection.client):
            raise ConnectionRejected(ClientResult.DENIED, why, connection.reply(Reply.NOT_ALLOWED))

    async def _connect(self, connection: ClientConnection, deadline: float) -> bool:
        """Try once to open a channel. Returns False if the link died meanwhile: the client then waits again."""
        link = await self.hold_queue.hold(connection, deadline)
        tunnel, client = connection.tunnel, connection.client  # it may have been edited while the client waited
        if isinstance(tunnel.route, Socks) is not (client.requested is not None):  # an edit made it another kind
            raise ConnectionRejected(ClientResult.DENIED, reply=connection.reply(Reply.GENERAL_FAILURE))
        self._check_rules(connection)
        connection.enter(ClientState.OPENING)
        relay, window = self._start_relay(connection, tunnel, link)
        relay.send_on_open = connection.reply(Reply.SUCCEEDED)
        started = self._loop.time()
        try:
            await link.open(relay, remote_destination(tunnel.route, client.requested), client.origin, window)
        except asyncio.CancelledError:
            relay.open_failed()
            raise
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            if link.gone and not connection.transport.lost:
                self._hold_again(connection, relay)
                return False
            raise self._open_failed(connection, tunnel, relay, error) from None
        finally:
            self._records.target(tunnel.target).dials.observe(self._loop.time() - started)
        self._opened(connection, tunnel)
        return True

    def _hold_again(self, connection: ClientConnection, relay: Relay) -> None:
        relay.abandon()
        connection.drop_link()
        connection.enter(ClientState.HELD)
        connection.listener.waiting.add(connection)

    def _open_failed(
        self, connection: ClientConnection, tunnel: TunnelSpec, relay: Relay, error: Exception
    ) -> ConnectionRejected:
        failure = from_channel_open(error, connection.to)
        if connection.client.requested is None:  # the destination of one SOCKS client says nothing about the next's
            self.destinations.unreachable(connection.listener, tunnel, failure)
        relay.open_failed()
        reply = connection.reply(Reply(socks_reply(error)))
        return ConnectionRejected(ClientResult.DIAL_FAILED, failure.message, reply)

    def _opened(self, connection: ClientConnection, tunnel: TunnelSpec) -> None:
        """Note that the channel is open. If the client was cut meanwhile, its relay has closed the channel again."""
        if connection.client.requested is None and connection.listener.still_leads_to(tunnel):
            self.destinations.reached(connection.listener.state.owner)
        if not connection.transport.lost:
            self._registry.opened(connection)
        self._finish(connection, ClientResult.OK)

    # --- clients of a listener on the server -------------------------------------------------------------------

    async def accept_remote(
        self, listener: ListenerClients, link: Link, origin: Origin
    ) -> asyncssh.SSHTCPSession[bytes]:
        """Serve a client of a listener on the server: check the rules, dial the destination here, return the session.

        Raises ChannelOpenError, which refuses the client's channel.
        """
        tunnel = listener.state.owner
        refusal = self.accept_check.refusal(listener, origin)
        if refusal is ClientResult.DENIED:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not allowed")
        place = self.accept_check.take_place(listener, origin) if refusal is None else None
        if place is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        transport = ClientTransport(lambda _: None, place)
        connection = self._registry.add(listener, transport, origin, ClientState.OPENING)
        listener.waiting.add(connection)
        try:
            await self._dial(connection, tunnel, link)
        except BaseException:
            place.give_back()
            self._registry.ended(connection)
            raise
        finally:
            listener.waiting.discard(connection)
        if link.gone or forbids(listener.state.owner, connection.client):  # both may have changed during the dial
            transport.reset()
            self._registry.ended(connection)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "no longer allowed")
        if listener.still_leads_to(tunnel):
            tunnel = listener.state.owner  # it may have been renamed
            self.destinations.reached(tunnel)
        relay, window = self._start_relay(connection, tunnel, link)
        self._registry.opened(connection)
        self._finish(connection, ClientResult.OK)
        return ChannelSession(relay, window)

    async def _dial(self, connection: ClientConnection, tunnel: TunnelSpec, link: Link) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._keep_task(task)
        started = self._loop.time()
        try:
            await dial_local(tunnel.route, link.dial_timeout, connection.transport)
        except OSError as error:
            failure = from_channel_open(error, str(tunnel.route))
            self.destinations.unreachable(connection.listener, tunnel, failure)
            self._finish(connection, ClientResult.DIAL_FAILED, failure.message)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the destination cannot be reached") from None
        finally:
            self._records.target(tunnel.target).dials.observe(self._loop.time() - started)

    # --- relays ------------------------------------------------------------------------------------------------

    def _start_relay(self, connection: ClientConnection, tunnel: TunnelSpec, link: Link) -> tuple[Relay, int]:
        """Give a connection a link. Returns its relay, and the receive window that its channel is to have."""
        window, clients = link.window(), self._records.tunnel(tunnel.id).clients

        def ended(why: str) -> None:
            link.release(window)
            self.hold_queue.mark_used(link.target)
            self._flows.remove(connection)
            if connection.state is ClientState.RELAYING:
                self._registry.ended(connection, why)

        relay = Relay(connection.transport, clients, link.gate, ended)
        relay.throttle(*clients.throttles(tunnel.policy.bandwidth_limit))
        connection.assign_link(tunnel, link, relay)
        connection.listener.waiting.discard(connection)  # from here on it is counted as a flow
        self._flows.add(connection)
        return relay, window
