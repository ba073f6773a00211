"""Where a client waits: a door, and the time until there is a link for it.

Owns who stands before each listening socket, and how many are held for each target. In: a client without a channel.
Out: a usable link, or TurnedAway; `changed` when the first of a target begins to wait, because that hurries the next
try and wakes a target that is on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field

from reconciler.core.observed import SocketState
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.link.link import Link
from reconciler.ssh.relay.client_transport import ClientTransport
from reconciler.ssh.relay.relay import Meter

HELD_CHECK = 1.0  # how often, in seconds, a waiting client is asked whether it is still there


@dataclass(slots=True)
class ListenerClients:
    """A listening socket as its clients see it: whose it is now, and who stands on the doorstep.

    waiting   without a channel yet; the task lets its client in or sends it away
    dialling  clients on the server whose destination here has not answered yet
    """

    state: SocketState
    waiting: set[asyncio.Task[None]] = field(default_factory=set)
    dialling: int = 0


class ConnectionRejected(Exception):  # noqa: N818 - it is a decision about a client, not an error
    """The client gets no channel. `result` is what it is counted as, `said` what it is told (nothing: RST)."""

    def __init__(self, result: str, said: bytes = b"") -> None:
        super().__init__(result)
        self.result = result
        self.said = said


class HoldQueue:
    """See the module. `pick` gives a usable link of a target or None, `wait` returns when there may be one."""

    def __init__(
        self,
        pick: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
        meter: Callable[[TunnelSpec], Meter],
    ) -> None:
        self._pick = pick
        self._wait = wait
        self._changed = changed
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._held: dict[str, int] = {}  # by target
        self._last_used: dict[str, float] = {}  # by target

    def held(self, target: str) -> int:
        """How many clients wait for it."""
        return self._held.get(target, 0)

    def last_used(self, target: str) -> float:
        """When a client of it last was here (loop time)."""
        return self._last_used.get(target, float("-inf"))

    def used(self, target: str) -> None:
        """A client of it was here until now."""
        self._last_used[target] = self._loop.time()

    async def hold(self, door: ListenerClients, near: ClientTransport, give_up_at: float, farewell: bytes) -> Link:
        """A usable link, as soon as there is one; of another target, once the tunnel leads there."""
        while (link := self._pick(door.state.owner.target)) is None:
            now = self._loop.time()
            if now >= give_up_at:
                raise ConnectionRejected("hold_timeout", farewell)
            if _has_gone(near):
                raise ConnectionRejected("left")
            with self._holding(door.state.owner), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(HELD_CHECK, give_up_at - now)):
                    await self._wait(door.state.owner.target)
        if near.place is not None:
            near.place.move_to(door.state.owner.target)
        return link

    @contextlib.contextmanager
    def _holding(self, tunnel: TunnelSpec) -> Iterator[None]:
        meter, target = self._meter(tunnel), tunnel.target
        meter.held += 1
        self._held[target] = self.held(target) + 1
        if self._held[target] == 1:
            self._changed()
        try:
            yield
        finally:
            meter.held -= 1
            self._held[target] -= 1
            self.used(target)

    def forget(self, live: set[str]) -> None:
        """Drop what was known of other targets."""
        for target in self._last_used.keys() - live:
            if not self.held(target):
                del self._last_used[target]
                self._held.pop(target, None)


_TCP_CLOSE = 7  # tcpi_state of a connection that was reset


def _has_gone(near: ClientTransport) -> bool:
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
