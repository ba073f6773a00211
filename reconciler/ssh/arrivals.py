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
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import asyncssh

from reconciler.core.spec import TunnelSpec
from reconciler.core.status import Destination, Failure, FlowKey, SocketState
from reconciler.ssh.failures import from_channel_open
from reconciler.ssh.flows import Flows
from reconciler.ssh.kinds import dial_near, far_destination
from reconciler.ssh.link import Link
from reconciler.ssh.relay import Far, Meter, Near, Relay

log = logging.getLogger(__name__)

HELD_CHECK = 1.0  # how often a waiting client is asked whether it is still there


@dataclass(slots=True)
class Door:
    """A listening socket as its clients see it: whose it is now, and who stands on the doorstep."""

    state: SocketState
    waiting: set[asyncio.Task[None]] = field(default_factory=set)


class _TurnedAway(Exception):  # noqa: N818 - it is a decision about a client, not an error
    """The client gets no channel; `result` is what it is counted as."""

    def __init__(self, result: str) -> None:
        super().__init__(result)
        self.result = result


class Arrivals:
    """See the module. `pick` gives a usable link of a target or None, `wait` returns when there may be one."""

    def __init__(
        self,
        flows: Flows,
        *,
        pick: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
    ) -> None:
        self._flows = flows
        self._pick = pick
        self._wait = wait
        self._changed = changed
        self._loop = asyncio.get_running_loop()
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

    # --- clients that come in here -----------------------------------------------------------------------------

    def accept(self, door: Door, near: Near) -> None:
        """A client connected."""
        meter = self.meter(door.state.owner)
        limit = door.state.owner.policy.max_connections
        if limit and meter.active + meter.held >= limit:
            meter.count("limit")
            near.reset()
            return
        task = self._loop.create_task(self._arrive(door, near))
        door.waiting.add(task)
        task.add_done_callback(door.waiting.discard)

    async def _arrive(self, door: Door, near: Near) -> None:
        give_up_at = self._loop.time() + door.state.owner.policy.hold_timeout
        try:
            while not await self._connect(door, near, give_up_at):
                pass
        except _TurnedAway as end:
            self.meter(door.state.owner).count(end.result)
            near.reset()
        except asyncio.CancelledError:
            near.reset()
            raise
        except Exception:  # one client's bug must not be silent, nor leave the client hanging
            log.exception("%s: a fault of this program while a client connected", door.state.owner.id)
            near.reset()

    async def _connect(self, door: Door, near: Near, give_up_at: float) -> bool:
        """One attempt. False: the link died under it, and the client should wait again."""
        link = await self._hold(door, near, give_up_at)
        tunnel = door.state.owner  # as it is now: it may have been edited while the client waited
        meter = self.meter(tunnel)
        window = link.window()
        relay = Relay(near, meter, link, lambda relay, _: self._ended(relay, link, window))
        self._enter(relay, door, tunnel, link)
        to = far_destination(tunnel.route, None)
        try:
            await link.open(relay, to, _origin(near), window)
        except asyncio.CancelledError:
            relay.unopened()
            raise
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            if link.gone and not near.lost:
                relay.abandon()
                return False
            self._unreachable(tunnel, from_channel_open(error, str(to)))
            relay.unopened()
            raise _TurnedAway("dial_failed") from None
        self._reached(tunnel)
        meter.count("ok")
        return True

    async def _hold(self, door: Door, near: Near, give_up_at: float) -> Link:
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
                    raise _TurnedAway("hold_timeout")
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
        return link

    # --- clients that come in on the server --------------------------------------------------------------------

    async def accept_far(self, door: Door, link: Link, host: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        """A client connected to a listener on the server: dial its destination from here."""
        tunnel = door.state.owner
        meter = self.meter(tunnel)
        limit = tunnel.policy.max_connections
        if limit and meter.active >= limit:
            meter.count("limit")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many connections")
        try:
            near = await dial_near(tunnel.route, 10.0)
        except OSError as error:
            self._unreachable(tunnel, from_channel_open(error, str(tunnel.route)))
            meter.count("dial_failed")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the destination cannot be reached") from None
        self._reached(tunnel)
        meter.count("ok")
        relay = Relay(near, meter, link, lambda relay, _: self._ended(relay, link, 0))
        self._enter(relay, door, tunnel, link)
        if link.gone:
            relay.link_lost()
        return Far(relay)

    def _enter(self, relay: Relay, door: Door, tunnel: TunnelSpec, link: Link) -> None:
        key = FlowKey(tunnel.id, tunnel.route, link.number)
        self._flows.add(relay, key, door.state.key, tunnel.policy.drain_timeout)

    # --- results -----------------------------------------------------------------------------------------------

    def _ended(self, relay: Relay, link: Link, window: int) -> None:
        link.release(window)
        self._flows.remove(relay)

    def _unreachable(self, tunnel: TunnelSpec, failure: Failure) -> None:
        before = self.destinations.get(tunnel.id)
        self.destinations[tunnel.id] = Destination(before.failures + 1 if before else 1, failure)
        self._changed()

    def _reached(self, tunnel: TunnelSpec) -> None:
        if self.destinations.pop(tunnel.id, None) is not None:
            self._changed()

    def forget(self, live: set[str]) -> None:
        """Drop what was measured of tunnels that are gone."""
        for store in (self.meters, self.destinations):
            for tunnel in [tunnel for tunnel in store if tunnel not in live]:
                store.pop(tunnel)


def _origin(near: Near) -> tuple[str, int]:
    peer = near.transport.get_extra_info("peername")
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("", 0)


_TCP_INFO_CLOSED = 7  # tcpi_state TCP_CLOSE: it was reset


def _has_gone(near: Near) -> bool:
    """Whether a client that we do not read from has reset its connection; only TCP_INFO can tell (DESIGN 10)."""
    sock = near.transport.get_extra_info("socket")
    if near.lost:
        return True
    if sock is None or sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_INFO_CLOSED)
    except OSError:
        return True
