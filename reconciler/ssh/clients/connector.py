"""A client's way in: from the door to the relay.

Owns the clients that have no channel yet. In: an accepted near socket (or, for remote tunnels, a channel request),
and the door it came through. Out: a relay among the flows, or a client turned away, counted by result.

    accept -> rules -> (handshake) -> hold until a link is usable -> open the channel -> relay

While the link is down a client waits here, at most its tunnel's `holdTimeout`; a channel that fails because its link
died under it sends the client back to waiting, not away.
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
from reconciler.ssh.clients.limits import RefusalLog, Throttles
from reconciler.ssh.clients.socks import Asked, SocksRefusedError, greet, unreadable_password
from reconciler.ssh.counters import Counters
from reconciler.ssh.errors.channel_errors import from_channel_open, socks_reply
from reconciler.ssh.link.link import Link
from reconciler.ssh.relay.client_transport import ClientTransport
from reconciler.ssh.relay.connection_registry import ConnectionRegistry, RegisteredConnection
from reconciler.ssh.relay.flows import Flows
from reconciler.ssh.relay.relay import ChannelSession, Meter, Relay

log = logging.getLogger(__name__)

WRONG_LOGIN_PAUSE = 1.0  # seconds until a SOCKS client is told that its password is wrong: guessing is to take long
NOT_ALLOWED = "its address is not allowed (allow, deny)"
REASONS_TOLD = 3  # at most, of clients who are cut together
CLOSE_WITHIN = 1.0  # seconds that a client which was told why it is refused has to close its connection


class ClientConnector:
    """See the module. `pick` gives a usable link of a target or None, `wait` returns when there may be one.

    `cut` hears how many clients of a tunnel were cut by an edit of its rules, and why.
    """

    def __init__(
        self,
        flows: Flows,
        environ: Mapping[str, str],
        *,
        budget: Budget,
        pick: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
        cut: Callable[[TunnelSpec, str], None],
        counters: Counters,
        registry: ConnectionRegistry,
    ) -> None:
        self._flows = flows
        self._environ = environ
        self._budget = budget
        self._pick = pick
        self._counters = counters
        self._registry = registry
        self._changed = changed
        self._cut = cut
        self.hold_queue = HoldQueue(pick, wait, changed, self.meter)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._throttles = Throttles()
        self._refusals = RefusalLog()
        self._guesses = GuessLimiter()
        self.meters: dict[str, Meter] = {}
        self.destinations: dict[str, Destination] = {}
        self._to_look_at: dict[str, TunnelSpec] = {}  # by id: SOCKS tunnels whose passwords may have changed
        self._looking: set[str] = set()
        self._live: set[str] = set()  # tunnels that are wanted, or have clients

    def meter(self, tunnel: TunnelSpec) -> Meter:
        return self.meters.setdefault(tunnel.id, Meter())

    def turn_away(self, door: ListenerClients) -> None:
        """Its socket is closing: nobody who waits will be let in."""
        for task in tuple(door.waiting):
            task.cancel()

    async def close(self) -> None:
        """Let nobody in any more, and wait until the last of them is sent away."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look_at_passwords(self, tunnel: TunnelSpec) -> None:
        """Find out whether those of its users can be read: if not, they are sent away, and a person has to know why.

        One look at a time for each tunnel; one that is asked for meanwhile follows.
        """
        if not tunnel.policy.users and tunnel.id not in self.destinations:
            return
        self._to_look_at[tunnel.id] = tunnel
        if tunnel.id not in self._looking:
            self._looking.add(tunnel.id)
            self._until_done(self._loop.create_task(self._look(tunnel.id), name=f"SOCKS passwords of {tunnel.id}"))

    async def _look(self, name: str) -> None:
        try:
            while (tunnel := self._to_look_at.pop(name, None)) is not None:
                failure = await unreadable_password(tunnel, self._environ)
                if name in self._live:
                    self._passwords_looked_at(tunnel, failure)
        finally:
            self._looking.discard(name)

    def _passwords_looked_at(self, tunnel: TunnelSpec, failure: Failure | None) -> None:
        before = self.destinations.get(tunnel.id)
        if failure is not None:
            self.destinations[tunnel.id] = Destination(UNHEALTHY_AFTER, failure)
            if before is None:
                self._counters.failures(tunnel.id)[failure.reason] += 1
                self._changed()
        elif isinstance(tunnel.route, Socks) and before is not None:
            self._reached(tunnel)

    def reapply(self, old: TunnelSpec, tunnel: TunnelSpec) -> None:
        """The tunnel changed: its policy holds for live clients too, and what its old destination did for nobody."""
        if old.route != tunnel.route:
            self.destinations.pop(tunnel.id, None)
        self.look_at_passwords(tunnel)
        throttles = self._throttles.of(tunnel)
        cut: Counter[str] = Counter()
        for relay in self._flows.relays(tunnel=tunnel.id):
            relay.throttle(*throttles)
            if why := forbids(tunnel, relay.client_info):
                relay.cut(why)
                self._flows.remove(relay)  # at once, lest the next pass drains who is gone but for the server's answer
                cut[why] += 1
        if cut:
            for target in {old.target, tunnel.target}:
                self.hold_queue.used(target)  # until now
            self._tell_cut(tunnel, cut)

    def _tell_cut(self, tunnel: TunnelSpec, cut: Counter[str]) -> None:
        """One line for all of them."""
        count = cut.total()
        whys = [f"{why} ({times} of them)" if times < count else why for why, times in cut.most_common(REASONS_TOLD)]
        said = f"{'1 client' if count == 1 else f'{count} clients'}: {'; '.join(whys)}"
        said += "; and others" if len(cut) > REASONS_TOLD else ""
        fields = {"target": tunnel.target, "tunnel": tunnel.id, "labels": dict(tunnel.policy.labels) or None}
        log.info("tunnel %s: its new rules cut %s", tunnel.id, said, extra=fields)
        self._cut(tunnel, said)

    # --- clients that come in here -----------------------------------------------------------------------------

    def admit(self, door: ListenerClients, client: str = "") -> ClientPlace | None:
        """Take a place in the budget of descriptors for a new client. None: there is no room, and it was told."""
        tunnel = door.state.owner
        group = tunnel.target if self._pick(tunnel.target) is not None else AWAY
        place = self._budget.take_client(door.state.key, tunnel.id, group)
        if place is None:
            self._refuse(tunnel, "limit", client, self._budget.no_client().message)
            self._counters.failures(tunnel.id)[Reason.RESOURCES] += 1
        return place

    def accept(self, door: ListenerClients, near: ClientTransport, origin: Origin) -> None:
        """A client connected."""
        tunnel = door.state.owner
        if not source_allowed(tunnel, origin):
            self._refuse(tunnel, "denied", origin.host, NOT_ALLOWED)
            near.reset()
        elif self._is_full(door):
            self._refuse(tunnel, "limit", origin.host, _full(tunnel))
            near.reset()
        else:
            task = self._loop.create_task(self._arrive(door, near, origin))
            door.waiting.add(task)
            task.add_done_callback(door.waiting.discard)
            # Not in the task itself: one that is cancelled before its first step never runs, and the client would hang.
            task.add_done_callback(lambda done: near.reset() if done.cancelled() else None)
            self._until_done(task)

    def _refuse(self, tunnel: TunnelSpec, result: str, client: str, why: str) -> None:
        self.meter(tunnel).count(result)
        self._refusals.tell(tunnel, result, client, why)

    def _is_full(self, door: ListenerClients) -> bool:
        policy = door.state.owner.policy
        present = len(door.waiting) + door.dialling + self.meter(door.state.owner).active
        return 0 < policy.max_connections <= present

    def _until_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _arrive(self, door: ListenerClients, near: ClientTransport, origin: Origin) -> None:
        entry = self._registry.arrived(door.state.owner, origin)
        try:
            asked = await self._greet(door, near, origin) if isinstance(door.state.owner.route, Socks) else None
            give_up_at = self._loop.time() + door.state.owner.policy.hold_timeout
            while not await self._connect(door, near, asked, give_up_at, entry):
                pass
        except ConnectionRejected as end:
            tunnel = door.state.owner
            self.meter(tunnel).count(end.result)
            if end.result == "hold_timeout":
                why = f"there was no SSH connection for {tunnel.policy.hold_timeout:g} s"
                self._refusals.tell(tunnel, end.result, origin.host, why)
            if end.said and not near.lost:
                await near.refuse(end.said, CLOSE_WITHIN)
            else:
                near.reset()
        except Exception:  # one client's bug must not be silent, nor leave the client hanging
            log.exception("%s: a fault of this program while a client connected", door.state.owner.id)
            near.reset()
        finally:
            if not entry.opened:
                self._registry.ended(entry, "")

    async def _greet(self, door: ListenerClients, near: ClientTransport, origin: Origin) -> Asked:
        tunnel = door.state.owner
        try:
            asked = await greet(near, origin, tunnel, self._environ, self._guesses)
        except SocksRefusedError as refused:
            self.look_at_passwords(tunnel)
            result = "auth_failed" if refused.login else "denied"
            self._refusals.tell(tunnel, result, origin.host, str(refused))
            if refused.login:
                await asyncio.sleep(WRONG_LOGIN_PAUSE)
            raise ConnectionRejected(result, refused.reply) from None
        except (ConnectionError, TimeoutError):
            raise ConnectionRejected("denied") from None
        if why := destination_refused(door.state.owner, asked.to):
            self._refusals.tell(tunnel, "denied", origin.host, why)
            raise ConnectionRejected("denied", reply(Reply.NOT_ALLOWED))
        return asked

    async def _connect(
        self,
        door: ListenerClients,
        near: ClientTransport,
        asked: Asked | None,
        give_up_at: float,
        entry: RegisteredConnection,
    ) -> bool:
        """One attempt. False: the link died under it, and the client should wait again."""
        link = await self.hold_queue.hold(door, near, give_up_at, reply(Reply.GENERAL_FAILURE) if asked else b"")
        tunnel = door.state.owner  # as it is now: it may have been edited while the client waited
        if isinstance(tunnel.route, Socks) is not (asked is not None):  # of another kind, which does not know its talk
            raise ConnectionRejected("denied", reply(Reply.GENERAL_FAILURE) if asked else b"")
        to = remote_destination(tunnel.route, asked.to if asked else None)
        client_info = ClientInfo(entry.origin, str(to), asked.to if asked else None, asked.user if asked else None)
        if why := forbids(tunnel, client_info):
            self._refusals.tell(tunnel, "denied", entry.origin.host, why)
            raise ConnectionRejected("denied", reply(Reply.NOT_ALLOWED) if asked else b"")
        task = asyncio.current_task()
        assert task is not None
        door.waiting.discard(task)  # from here it is one of the flows
        window = link.window()
        relay = self._enter(near, client_info, door, tunnel, link, window, entry)
        if asked is not None:
            relay.begin_with(reply(Reply.SUCCEEDED))
        began = self._loop.time()
        try:
            await link.open(relay, to, entry.origin, window)
        except asyncio.CancelledError:
            relay.unopened()
            raise
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            if link.gone and not near.lost:
                relay.abandon()
                door.waiting.add(task)
                entry.relay = entry.link = None
                return False
            failure = from_channel_open(error, str(to))
            self._refusals.tell(tunnel, "dial_failed", entry.origin.host, failure.message)
            if asked is None:  # what one SOCKS client asks for in vain says nothing about the next one's
                self._unreachable(door, tunnel, failure)
            relay.unopened()
            raise ConnectionRejected("dial_failed", reply(Reply(socks_reply(error))) if asked else b"") from None
        finally:
            self._counters.target(tunnel.target).dials.observe(self._loop.time() - began)
        if not near.lost:
            self._registry.opened(entry)
        if asked is None and _leads_there_still(door, tunnel):
            self._reached(door.state.owner)
        relay.meter.count("ok")
        return True

    # --- clients that come in on the server --------------------------------------------------------------------

    async def accept_far(self, door: ListenerClients, link: Link, origin: Origin) -> asyncssh.SSHTCPSession[bytes]:
        """A client connected to a listener on the server: dial its destination from here."""
        tunnel = door.state.owner
        if not source_allowed(tunnel, origin):
            self._refuse(tunnel, "denied", origin.host, NOT_ALLOWED)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not allowed")
        if self._is_full(door):
            self._refuse(tunnel, "limit", origin.host, _full(tunnel))
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        place = self.admit(door, origin.host)
        if place is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        entry = self._registry.arrived(tunnel, origin)
        client_info = ClientInfo(origin, str(tunnel.route))
        try:
            near = await self._dial(door, tunnel, link, origin.host, place)
        except BaseException:
            place.give_back()
            self._registry.ended(entry, "")
            raise
        if link.gone or forbids(door.state.owner, client_info):  # meanwhile
            self._registry.ended(entry, "")
            near.reset()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not allowed any more")
        if _leads_there_still(door, tunnel):
            tunnel = door.state.owner  # renamed, perhaps
            self._reached(tunnel)
        window = link.window()
        relay = self._enter(near, client_info, door, tunnel, link, window, entry)
        self._registry.opened(entry)
        self.meter(tunnel).count("ok")
        return ChannelSession(relay, window)

    async def _dial(
        self, door: ListenerClients, tunnel: TunnelSpec, link: Link, client: str, place: ClientPlace
    ) -> ClientTransport:
        task = asyncio.current_task()
        assert task is not None
        self._until_done(task)
        began = self._loop.time()
        door.dialling += 1
        try:
            return await dial_local(tunnel.route, link.dial_timeout, place)
        except OSError as error:
            failure = from_channel_open(error, str(tunnel.route))
            self._unreachable(door, tunnel, failure)
            self._refuse(tunnel, "dial_failed", client, failure.message)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the destination is not reached") from None
        finally:
            door.dialling -= 1
            self._counters.target(tunnel.target).dials.observe(self._loop.time() - began)

    # --- in, and out again -------------------------------------------------------------------------------------

    def _enter(
        self,
        near: ClientTransport,
        client_info: ClientInfo,
        door: ListenerClients,
        tunnel: TunnelSpec,
        link: Link,
        window: int,
        entry: RegisteredConnection,
    ) -> Relay:
        def ended(relay: Relay, why: str) -> None:
            link.release(window)
            self.hold_queue.used(tunnel.target)
            self._flows.remove(relay)
            if entry.opened:
                self._registry.ended(entry, why)

        relay = Relay(near, client_info, self.meter(tunnel), link, ended)
        relay.throttle(*self._throttles.of(tunnel))
        entry.tunnel, entry.relay, entry.link = tunnel, relay, link.number
        key = FlowKey(tunnel.id, door.state.key.listen, tunnel.route, link.number)
        self._flows.add(relay, key, door.state.key, tunnel.policy.drain_timeout)
        return relay

    def _unreachable(self, door: ListenerClients, tunnel: TunnelSpec, failure: Failure) -> None:
        """The tunnel's destination, as it was when the client came, cannot be reached."""
        self._counters.failures(tunnel.id)[failure.reason] += 1
        if failure.reason is not Reason.TIMEOUT and _leads_there_still(door, tunnel):  # that was the server
            owner = door.state.owner.id
            before = self.destinations.get(owner)
            self.destinations[owner] = Destination(before.failures + 1 if before else 1, failure)
            self._changed()

    def _reached(self, tunnel: TunnelSpec) -> None:
        if self.destinations.pop(tunnel.id, None) is not None:
            self._changed()

    def forget(self, live: set[str]) -> None:
        """Drop what was measured of tunnels that are gone."""
        self._throttles.forget(live)
        self._guesses.forget(live)
        self._live = set(live)
        for store in (self.meters, self.destinations):
            for tunnel in [tunnel for tunnel in store if tunnel not in live]:
                store.pop(tunnel)
        self.hold_queue.forget({tunnel.partition("/")[0] for tunnel in live})


def _leads_there_still(door: ListenerClients, tunnel: TunnelSpec) -> bool:
    """Whether what a client found out is true of the next ones: an edit may lead them elsewhere by now."""
    return door.state.owner.route == tunnel.route


def _full(tunnel: TunnelSpec) -> str:
    return f"maxConnections {tunnel.policy.max_connections} is reached"
