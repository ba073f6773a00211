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
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

import asyncssh

from reconciler.core.socks5 import Reply, reply
from reconciler.core.spec import Socks, TunnelSpec
from reconciler.core.status import Destination, Failure, FlowKey, SocketState
from reconciler.ssh.failures import from_channel_open, socks_reply
from reconciler.ssh.flows import Flows
from reconciler.ssh.kinds import dial_near, far_destination
from reconciler.ssh.limits import Throttles, Visitor, destination_refused, forbids, source_allowed
from reconciler.ssh.link import Link
from reconciler.ssh.near import Near
from reconciler.ssh.relay import Far, Meter, Relay
from reconciler.ssh.socks import Asked, SocksRefusedError, greet

log = logging.getLogger(__name__)

HELD_CHECK = 1.0  # how often a waiting client is asked whether it is still there


@dataclass(slots=True)
class Door:
    """A listening socket as its clients see it: whose it is now, and who stands on the doorstep."""

    state: SocketState
    waiting: set[asyncio.Task[None]] = field(default_factory=set)


class _TurnedAway(Exception):  # noqa: N818 - it is a decision about a client, not an error
    """The client gets no channel. `result` is what it is counted as, `said` what it is told (nothing: RST)."""

    def __init__(self, result: str, said: bytes = b"") -> None:
        super().__init__(result)
        self.result = result
        self.said = said


class Arrivals:
    """See the module. `pick` gives a usable link of a target or None, `wait` returns when there may be one."""

    def __init__(
        self,
        flows: Flows,
        environ: Mapping[str, str],
        *,
        pick: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
    ) -> None:
        self._flows = flows
        self._environ = environ
        self._pick = pick
        self._wait = wait
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._throttles = Throttles()
        self.meters: dict[str, Meter] = {}
        self.destinations: dict[str, Destination] = {}
        self.held: dict[str, int] = {}  # by target
        self.last_used: dict[str, float] = {}  # by target

    def meter(self, tunnel: TunnelSpec) -> Meter:
        return self.meters.setdefault(tunnel.id, Meter())

    def turn_away(self, door: Door) -> None:
        """Its socket is closing: nobody who waits will be let in."""
        for task in tuple(door.waiting):
            task.cancel()

    def reapply(self, tunnel: TunnelSpec) -> None:
        """The tunnel's policy changed: it holds for live clients too."""
        throttles = self._throttles.of(tunnel)
        for relay in self._flows.relays(tunnel=tunnel.id):
            relay.throttle(*throttles)
            if why := forbids(tunnel, relay.visitor):
                relay.cut(why)

    # --- clients that come in here -----------------------------------------------------------------------------

    def accept(self, door: Door, near: Near) -> None:
        """A client connected."""
        tunnel = door.state.owner
        meter = self.meter(tunnel)
        if not source_allowed(tunnel, _origin(near)[0]):
            meter.count("denied")
            near.reset()
        elif (limit := tunnel.policy.max_connections) and len(door.waiting) + meter.active >= limit:
            meter.count("limit")
            near.reset()
        else:
            task = self._loop.create_task(self._arrive(door, near))
            door.waiting.add(task)
            task.add_done_callback(door.waiting.discard)

    async def _arrive(self, door: Door, near: Near) -> None:
        try:
            asked = await self._greet(door, near) if isinstance(door.state.owner.route, Socks) else None
            give_up_at = self._loop.time() + door.state.owner.policy.hold_timeout
            while not await self._connect(door, near, asked, give_up_at):
                pass
        except _TurnedAway as end:
            self.meter(door.state.owner).count(end.result)
            if end.said and not near.lost:
                near.transport.write(end.said)
                near.transport.close()
            else:
                near.reset()
        except asyncio.CancelledError:
            near.reset()
            raise
        except Exception:  # one client's bug must not be silent, nor leave the client hanging
            log.exception("%s: a fault of this program while a client connected", door.state.owner.id)
            near.reset()

    async def _greet(self, door: Door, near: Near) -> Asked:
        tunnel = door.state.owner
        try:
            asked = await greet(near, tunnel, self._environ)
        except SocksRefusedError as refused:
            log.info("tunnel %s: client %s was refused: %s", tunnel.id, _origin(near)[0], refused)
            raise _TurnedAway("auth_failed" if refused.login else "denied", refused.reply) from None
        except (ConnectionError, TimeoutError):
            raise _TurnedAway("denied") from None
        if why := destination_refused(door.state.owner, asked.to):
            log.info("tunnel %s: client %s was refused: %s", tunnel.id, _origin(near)[0], why)
            raise _TurnedAway("denied", reply(Reply.NOT_ALLOWED))
        return asked

    async def _connect(self, door: Door, near: Near, asked: Asked | None, give_up_at: float) -> bool:
        """One attempt. False: the link died under it, and the client should wait again."""
        link = await self._hold(door, near, give_up_at, reply(Reply.GENERAL_FAILURE) if asked else b"")
        tunnel = door.state.owner  # as it is now: it may have been edited while the client waited
        to = far_destination(tunnel.route, asked.to if asked else None)
        origin = _origin(near)
        visitor = Visitor(origin[0], str(to), asked.to if asked else None, asked.user if asked else None)
        window = link.window()
        relay = self._enter(near, visitor, door, link, window)
        if asked is not None:
            relay.begin_with(reply(Reply.SUCCEEDED), asked.rest)
        try:
            await link.open(relay, to, origin, window)
        except asyncio.CancelledError:
            relay.unopened()
            raise
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            if link.gone and not near.lost:
                relay.abandon()
                return False
            if asked is None:  # what one SOCKS client asks for in vain says nothing about the next one's
                self._unreachable(tunnel, from_channel_open(error, str(to)))
            relay.unopened()
            raise _TurnedAway("dial_failed", reply(Reply(socks_reply(error))) if asked else b"") from None
        self._reached(tunnel)
        relay.meter.count("ok")
        return True

    async def _hold(self, door: Door, near: Near, give_up_at: float, farewell: bytes) -> Link:
        """A usable link, as soon as there is one."""
        target = door.state.owner.target
        link = self._pick(target)
        if link is not None:
            return link
        meter = self.meter(door.state.owner)
        meter.held += 1
        self.held[target] = self.held.get(target, 0) + 1
        self._changed()  # a held client hurries the next try, and wakes an on-demand target
        try:
            while link is None:
                now = self._loop.time()
                if now >= give_up_at:
                    raise _TurnedAway("hold_timeout", farewell)
                if _has_gone(near):
                    raise _TurnedAway("left")
                try:
                    async with asyncio.timeout(min(HELD_CHECK, give_up_at - now)):
                        await self._wait(target)
                except TimeoutError:
                    pass  # time to look whether it is still there
                link = self._pick(target)
        finally:
            meter.held -= 1
            self.held[target] -= 1
            self.last_used[target] = self._loop.time()
        return link

    # --- clients that come in on the server --------------------------------------------------------------------

    async def accept_far(self, door: Door, link: Link, host: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        """A client connected to a listener on the server: dial its destination from here."""
        tunnel = door.state.owner
        meter = self.meter(tunnel)
        if host and not source_allowed(tunnel, host):
            meter.count("denied")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not allowed")
        if (limit := tunnel.policy.max_connections) and meter.active >= limit:
            meter.count("limit")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        try:
            near = await dial_near(tunnel.route, link.dial_timeout)
        except OSError as error:
            self._unreachable(tunnel, from_channel_open(error, str(tunnel.route)))
            meter.count("dial_failed")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the destination is not reached") from None
        relay = self._enter(near, Visitor(host, str(tunnel.route)), door, link, 0)
        if link.gone:
            relay.link_lost()
        self._reached(tunnel)
        meter.count("ok")
        return Far(relay)

    # --- in, and out again -------------------------------------------------------------------------------------

    def _enter(self, near: Near, visitor: Visitor, door: Door, link: Link, window: int) -> Relay:
        tunnel = door.state.owner

        def ended(relay: Relay, _why: str) -> None:
            link.release(window)
            self.last_used[tunnel.target] = self._loop.time()
            self._flows.remove(relay)

        relay = Relay(near, visitor, self.meter(tunnel), link, ended)
        relay.throttle(*self._throttles.of(tunnel))
        key = FlowKey(tunnel.id, tunnel.route, link.number)
        self._flows.add(relay, key, door.state.key, tunnel.policy.drain_timeout)
        return relay

    def _unreachable(self, tunnel: TunnelSpec, failure: Failure) -> None:
        before = self.destinations.get(tunnel.id)
        self.destinations[tunnel.id] = Destination(before.failures + 1 if before else 1, failure)
        self._changed()

    def _reached(self, tunnel: TunnelSpec) -> None:
        if self.destinations.pop(tunnel.id, None) is not None:
            self._changed()

    def forget(self, live: set[str]) -> None:
        """Drop what was measured of tunnels that are gone."""
        self._throttles.forget(live)
        for store in (self.meters, self.destinations):
            for tunnel in [tunnel for tunnel in store if tunnel not in live]:
                store.pop(tunnel)


def _origin(near: Near) -> tuple[str, int]:
    peer = near.transport.get_extra_info("peername")
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("", 0)


_TCP_CLOSE = 7  # tcpi_state of a connection that was reset


def _has_gone(near: Near) -> bool:
    """Whether a client that is not read from has reset its connection; only TCP_INFO can tell (DESIGN section 10)."""
    sock = near.transport.get_extra_info("socket")
    if near.lost:
        return True
    if sock is None or sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
    except OSError:
        return True
