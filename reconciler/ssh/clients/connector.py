"""Connects an accepted client to its destination: from the listener to the relay.

Owns the clients that have no channel yet. Input: an accepted socket (for remote forwards, a channel request) and its
listener. Output: a relay in `Flows`, or a rejected client; both are counted by result.

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

from reconciler.core.descriptor_budget import AWAY, Budget, ClientPlace
from reconciler.core.observed import ClientInfo, Destination, Failure, FlowKey, Reason
from reconciler.core.rules.admission import destination_refused, forbids, source_allowed
from reconciler.core.rules.guess_limiter import GuessLimiter
from reconciler.core.rules.origin import Origin
from reconciler.core.socks5 import Reply, reply
from reconciler.core.spec import Socks, TunnelSpec
from reconciler.core.status import UNHEALTHY_AFTER
from reconciler.ssh.clients.destination import dial_local, remote_destination
from reconciler.ssh.clients.hold_queue import ConnectionRejected, HoldQueue, ListenerClients
from reconciler.ssh.clients.limits import RefusalLog, Throttles, cut_summary, limit_message
from reconciler.ssh.clients.password_check import PasswordChecker
from reconciler.ssh.clients.socks import SocksRefusedError, SocksRequest, run_handshake
from reconciler.ssh.counters import Counters
from reconciler.ssh.errors.channel_errors import from_channel_open, socks_reply
from reconciler.ssh.link.link import Link
from reconciler.ssh.relay.client_transport import ClientTransport
from reconciler.ssh.relay.connection_registry import ConnectionRegistry, RegisteredConnection
from reconciler.ssh.relay.flows import Flows
from reconciler.ssh.relay.relay import ChannelSession, Meter, Relay

log = logging.getLogger(__name__)

WRONG_LOGIN_PAUSE = 1.0  # seconds before the reply to a wrong SOCKS password, to slow down guessing
NOT_ALLOWED = "its address is not allowed (allow, deny)"
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
        counters: Counters,
        registry: ConnectionRegistry,
    ) -> None:
        self._flows = flows
        self._environ = environ
        self._budget = budget
        self._select_link = select_link
        self._counters = counters
        self._registry = registry
        self._changed = changed
        self._cut = cut
        self.hold_queue = HoldQueue(select_link, wait, changed, self.meter)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._throttles = Throttles()
        self._refusals = RefusalLog()
        self._guesses = GuessLimiter()
        self.meters: dict[str, Meter] = {}
        self.destinations: dict[str, Destination] = {}
        self._password_checker = PasswordChecker(environ, self._passwords_checked)
        self._live: set[str] = set()  # tunnels that are desired, or have clients

    def meter(self, tunnel: TunnelSpec) -> Meter:
        return self.meters.setdefault(tunnel.id, Meter())

    def reject_waiting(self, listener: ListenerClients) -> None:
        """Reject the clients that wait at a listener, because its socket is closing."""
        for task in tuple(listener.waiting):
            task.cancel()

    async def close(self) -> None:
        """Reject all waiting clients, and wait until that is done."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._password_checker.close()

    def check_passwords(self, tunnel: TunnelSpec) -> None:
        """Start a check whether the passwords of the tunnel's users can be read: if not, the status must say why."""
        if tunnel.policy.users or tunnel.id in self.destinations:
            self._password_checker.check(tunnel)

    def _passwords_checked(self, tunnel: TunnelSpec, failure: Failure | None) -> None:
        if tunnel.id not in self._live:
            return
        before = self.destinations.get(tunnel.id)
        if failure is not None:
            self.destinations[tunnel.id] = Destination(UNHEALTHY_AFTER, failure)
            if before is None:
                self._counters.failures(tunnel.id)[failure.reason] += 1
                self._changed()
        elif isinstance(tunnel.route, Socks) and before is not None:
            self._reached(tunnel)

    def reapply(self, old: TunnelSpec, tunnel: TunnelSpec) -> None:
        """Apply a changed tunnel's rate limits and rules to its live clients. Drop failures of its old destination."""
        if old.route != tunnel.route:
            self.destinations.pop(tunnel.id, None)
        self.check_passwords(tunnel)
        throttles = self._throttles.of(tunnel)
        cut: Counter[str] = Counter()
        for relay in self._flows.relays(tunnel=tunnel.id):
            relay.throttle(*throttles)
            if why := forbids(tunnel, relay.client_info):
                relay.cut(why)
                # Remove it now. Only the server's close reply is pending, and the next pass would drain it.
                self._flows.remove(relay)
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

    def admit(self, listener: ListenerClients, client_host: str = "") -> ClientPlace | None:
        """Return a place in the descriptor budget for a new client. None, and a log line, if there is none."""
        tunnel = listener.state.owner
        group = tunnel.target if self._select_link(tunnel.target) is not None else AWAY
        place = self._budget.take_client(listener.state.key, tunnel.id, group)
        if place is None:
            self._refuse(tunnel, "limit", client_host, self._budget.no_client().message)
            self._counters.failures(tunnel.id)[Reason.RESOURCES] += 1
        return place

    def accept(self, listener: ListenerClients, client: ClientTransport, origin: Origin) -> None:
        """Check a new client against the rules and start to connect it, or reset it."""
        tunnel = listener.state.owner
        if not source_allowed(tunnel, origin):
            self._refuse(tunnel, "denied", origin.host, NOT_ALLOWED)
            client.reset()
        elif self._is_full(listener):
            self._refuse(tunnel, "limit", origin.host, limit_message(tunnel))
            client.reset()
        else:
            task = self._loop.create_task(self._serve(listener, client, origin))
            listener.waiting.add(task)
            task.add_done_callback(listener.waiting.discard)
            # Not in the task itself: a task cancelled before its first step never runs, and the client would hang.
            task.add_done_callback(lambda done: client.reset() if done.cancelled() else None)
            self._keep_task(task)

    def _refuse(self, tunnel: TunnelSpec, result: str, client_host: str, why: str) -> None:
        self.meter(tunnel).count(result)
        self._refusals.report(tunnel, result, client_host, why)

    def _is_full(self, listener: ListenerClients) -> bool:
        policy = listener.state.owner.policy
        present = len(listener.waiting) + listener.dialling + self.meter(listener.state.owner).active
        return 0 < policy.max_connections <= present

    def _keep_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, listener: ListenerClients, client: ClientTransport, origin: Origin) -> None:
        entry = self._registry.add(listener.state.owner, origin)
        try:
            request = None
            if isinstance(listener.state.owner.route, Socks):
                request = await self._run_socks_handshake(listener, client, origin)
            deadline = self._loop.time() + listener.state.owner.policy.hold_timeout
            while not await self._connect(listener, client, request, deadline, entry):
                pass
        except ConnectionRejected as end:
            tunnel = listener.state.owner
            self.meter(tunnel).count(end.result)
            if end.result == "hold_timeout":
                why = f"no SSH connection within its holdTimeout of {tunnel.policy.hold_timeout:g} s"
                self._refusals.report(tunnel, end.result, origin.host, why)
            if end.reply and not client.lost:
                await client.refuse(end.reply, CLOSE_WITHIN)
            else:
                client.reset()
        except Exception:  # a bug met by one client must be logged, and must not leave the client hanging
            log.exception("%s: a fault of this program while a client connected", listener.state.owner.id)
            client.reset()
        finally:
            if not entry.opened:
                self._registry.ended(entry, "")

    async def _run_socks_handshake(
        self, listener: ListenerClients, client: ClientTransport, origin: Origin
    ) -> SocksRequest:
        tunnel = listener.state.owner
        try:
            request = await run_handshake(client, origin, tunnel, self._environ, self._guesses)
        except SocksRefusedError as refused:
            self.check_passwords(tunnel)
            result = "auth_failed" if refused.login else "denied"
            self._refusals.report(tunnel, result, origin.host, str(refused))
            if refused.login:
                await asyncio.sleep(WRONG_LOGIN_PAUSE)
            raise ConnectionRejected(result, refused.reply) from None
        except (ConnectionError, TimeoutError):
            raise ConnectionRejected("denied") from None
        if why := destination_refused(listener.state.owner, request.to):
            self._refusals.report(tunnel, "denied", origin.host, why)
            raise ConnectionRejected("denied", reply(Reply.NOT_ALLOWED))
        return request

    async def _connect(
        self,
        listener: ListenerClients,
        client: ClientTransport,
        request: SocksRequest | None,
        deadline: float,
        entry: RegisteredConnection,
    ) -> bool:
        """Try once to open a channel. Returns False if the link died meanwhile: the client then waits again."""
        link = await self.hold_queue.hold(listener, client, deadline, reply(Reply.GENERAL_FAILURE) if request else b"")
        tunnel = listener.state.owner  # the current one: it may have been edited while the client waited
        if isinstance(tunnel.route, Socks) is not (request is not None):  # an edit made it another kind
            raise ConnectionRejected("denied", reply(Reply.GENERAL_FAILURE) if request else b"")
        to = remote_destination(tunnel.route, request.to if request else None)
        client_info = ClientInfo(
            entry.origin, str(to), request.to if request else None, request.user if request else None
        )
        if why := forbids(tunnel, client_info):
            self._refusals.report(tunnel, "denied", entry.origin.host, why)
            raise ConnectionRejected("denied", reply(Reply.NOT_ALLOWED) if request else b"")
        task = asyncio.current_task()
        assert task is not None
        listener.waiting.discard(task)  # from here on it is counted as a flow
        window = link.window()
        relay = self._start_relay(client, client_info, listener, tunnel, link, window, entry)
        if request is not None:
            relay.send_on_open(reply(Reply.SUCCEEDED))
        started = self._loop.time()
        try:
            await link.open(relay, to, entry.origin, window)
        except asyncio.CancelledError:
            relay.open_failed()
            raise
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            if link.gone and not client.lost:
                relay.abandon()
                listener.waiting.add(task)
                entry.relay = entry.link = None
                return False
            failure = from_channel_open(error, str(to))
            self._refusals.report(tunnel, "dial_failed", entry.origin.host, failure.message)
            if request is None:  # the destination of one SOCKS client says nothing about that of the next
                self._unreachable(listener, tunnel, failure)
            relay.open_failed()
            raise ConnectionRejected("dial_failed", reply(Reply(socks_reply(error))) if request else b"") from None
        finally:
            self._counters.target(tunnel.target).dials.observe(self._loop.time() - started)
        if not client.lost:
            self._registry.opened(entry)
        if request is None and listener.still_leads_to(tunnel):
            self._reached(listener.state.owner)
        relay.meter.count("ok")
        return True

    # --- clients of a listener on the server -------------------------------------------------------------------

    async def accept_remote(
        self, listener: ListenerClients, link: Link, origin: Origin
    ) -> asyncssh.SSHTCPSession[bytes]:
        """Serve a client of a listener on the server: check the rules, dial the destination here, return the session.

        Raises ChannelOpenError, which refuses the client's channel.
        """
        tunnel = listener.state.owner
        if not source_allowed(tunnel, origin):
            self._refuse(tunnel, "denied", origin.host, NOT_ALLOWED)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not allowed")
        if self._is_full(listener):
            self._refuse(tunnel, "limit", origin.host, limit_message(tunnel))
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        place = self.admit(listener, origin.host)
        if place is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        entry = self._registry.add(tunnel, origin)
        client_info = ClientInfo(origin, str(tunnel.route))
        try:
            client = await self._dial(listener, tunnel, link, origin.host, place)
        except BaseException:
            place.give_back()
            self._registry.ended(entry, "")
            raise
        if link.gone or forbids(listener.state.owner, client_info):  # both may have changed during the dial
            self._registry.ended(entry, "")
            client.reset()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "no longer allowed")
        if listener.still_leads_to(tunnel):
            tunnel = listener.state.owner  # it may have been renamed
            self._reached(tunnel)
        window = link.window()
        relay = self._start_relay(client, client_info, listener, tunnel, link, window, entry)
        self._registry.opened(entry)
        self.meter(tunnel).count("ok")
        return ChannelSession(relay, window)

    async def _dial(
        self, listener: ListenerClients, tunnel: TunnelSpec, link: Link, client_host: str, place: ClientPlace
    ) -> ClientTransport:
        task = asyncio.current_task()
        assert task is not None
        self._keep_task(task)
        started = self._loop.time()
        listener.dialling += 1
        try:
            return await dial_local(tunnel.route, link.dial_timeout, place)
        except OSError as error:
            failure = from_channel_open(error, str(tunnel.route))
            self._unreachable(listener, tunnel, failure)
            self._refuse(tunnel, "dial_failed", client_host, failure.message)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the destination cannot be reached") from None
        finally:
            listener.dialling -= 1
            self._counters.target(tunnel.target).dials.observe(self._loop.time() - started)

    # --- relays and the state of destinations ------------------------------------------------------------------

    def _start_relay(
        self,
        client: ClientTransport,
        client_info: ClientInfo,
        listener: ListenerClients,
        tunnel: TunnelSpec,
        link: Link,
        window: int,
        entry: RegisteredConnection,
    ) -> Relay:
        def ended(relay: Relay, why: str) -> None:
            link.release(window)
            self.hold_queue.mark_used(tunnel.target)
            self._flows.remove(relay)
            if entry.opened:
                self._registry.ended(entry, why)

        relay = Relay(client, client_info, self.meter(tunnel), link.gate, ended)
        relay.throttle(*self._throttles.of(tunnel))
        entry.tunnel, entry.relay, entry.link = tunnel, relay, link.number
        key = FlowKey(tunnel.id, listener.state.key.listen, tunnel.route, link.number)
        self._flows.add(relay, key, listener.state.key, tunnel.policy.drain_timeout)
        return relay

    def _unreachable(self, listener: ListenerClients, tunnel: TunnelSpec, failure: Failure) -> None:
        """Count a failed dial of the destination that the tunnel had when the client connected."""
        self._counters.failures(tunnel.id)[failure.reason] += 1
        # A timeout is a failure of the server, not of the destination.
        if failure.reason is not Reason.TIMEOUT and listener.still_leads_to(tunnel):
            owner = listener.state.owner.id
            before = self.destinations.get(owner)
            self.destinations[owner] = Destination(before.failures + 1 if before else 1, failure)
            self._changed()

    def _reached(self, tunnel: TunnelSpec) -> None:
        if self.destinations.pop(tunnel.id, None) is not None:
            self._changed()

    def prune(self, live: set[str]) -> None:
        """Drop the state of all tunnels but these."""
        self._throttles.prune(live)
        self._guesses.forget(live)
        self._live = set(live)
        for store in (self.meters, self.destinations):
            for tunnel in [tunnel for tunnel in store if tunnel not in live]:
                store.pop(tunnel)
        self.hold_queue.prune({tunnel.partition("/")[0] for tunnel in live})
