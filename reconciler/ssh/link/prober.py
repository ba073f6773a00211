"""Asking through a tunnel whether its destination is well, as often as its `health` says.

Owns one task for each tunnel that has a probe. In: the tunnels that are wanted, the probes there are. Out: `results`
by tunnel id, and `failing` when a tunnel whose probe asks for it should get a new connection. A probe is not run
while the link is down: that has its own reason already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping

import asyncssh

from reconciler.core.descriptor_budget import Budget, NoRoomError, Place
from reconciler.core.interfaces import Probe, Stream
from reconciler.core.observed import Destination, Failure, Reason
from reconciler.core.spec import FarTcp, FarUnix, Health, NearTcp, NearUnix, Route, Socks, TunnelSpec
from reconciler.ssh.counters import Counters
from reconciler.ssh.errors.channel_errors import from_channel_open
from reconciler.ssh.link.link import Link

log = logging.getLogger(__name__)

_PROBES = "probes"  # the owner, in the budget of descriptors, of the sockets that probes open here


class Prober:
    """See the module. `pick` gives a usable link of a target or None, `wait` returns when there may be another one."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        *,
        budget: Budget,
        pick: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
        failing: Callable[[TunnelSpec], None],
        counters: Counters,
    ) -> None:
        self._probes = probes
        self._budget = budget
        budget.add_owner(_PROBES)
        self._counters = counters
        self._pick = pick
        self._wait = wait
        self._changed = changed
        self._failing = failing
        self._tasks: dict[str, tuple[TunnelSpec, asyncio.Task[None]]] = {}
        self.results: dict[str, Destination] = {}

    def want(self, tunnels: Mapping[str, TunnelSpec]) -> None:
        """These are wanted now; a tunnel that leads elsewhere, or asks otherwise, is asked about anew."""
        for tunnel in tunnels.values():
            before = self._tasks.get(tunnel.id)
            if before is None or _asked(before[0]) != _asked(tunnel):
                self._stop(tunnel.id)
                if tunnel.policy.health is not None:
                    task = asyncio.create_task(self._ask(tunnel, tunnel.policy.health), name=f"probe {tunnel.id}")
                    self._tasks[tunnel.id] = (tunnel, task)
        for tunnel_id in [one for one in self._tasks if one not in tunnels]:
            self._stop(tunnel_id)

    def _stop(self, tunnel_id: str) -> None:
        task = self._tasks.pop(tunnel_id, None)
        if task is not None:
            task[1].cancel()
        self.results.pop(tunnel_id, None)

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for _, task in self._tasks.values()]
        for tunnel_id in tuple(self._tasks):
            self._stop(tunnel_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, tunnel: TunnelSpec, health: Health) -> None:
        while True:
            link = self._pick(tunnel.target)
            if link is not None:
                await self._probe(tunnel, health, link)
            # A new connection is asked about at once: what was said over the old one may not hold for it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(health.interval):
                    await self._wait(tunnel.target)

    async def _probe(self, tunnel: TunnelSpec, health: Health, link: Link) -> None:
        began = asyncio.get_running_loop().time()
        try:
            failure = await self._once(tunnel, health, link)
        except NoRoomError as full:
            log.debug("%s: not probed: %s", tunnel.id, full.failure.message)  # it says nothing about the destination
            return
        except Exception as error:  # a probe's bug is told as what it is, and the tunnel goes on
            log.exception("%s: a fault of this program in a probe", tunnel.id)
            failure = Failure(Reason.INTERNAL, f"a fault of this program in a probe ({error!r})")
        if not link.gone:
            self._counters.target(tunnel.target).probes.observe(asyncio.get_running_loop().time() - began)
            self._note(tunnel, health, failure)

    async def _once(self, tunnel: TunnelSpec, health: Health, link: Link) -> Failure | None:
        """Raises NoRoomError where the budget has no descriptor for it."""

        async def opener() -> Stream | Failure:
            try:
                return await self._open(tunnel, link)
            except NoRoomError:
                raise
            except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
                return from_channel_open(error, str(tunnel.route))

        try:
            async with asyncio.timeout(health.timeout):
                return await self._probes[health.type](opener, health, tunnel.route)
        except TimeoutError:
            return Failure(
                Reason.PROBE, f"{tunnel.route} did not answer the {health.type} probe in {health.timeout:g} s"
            )

    def _note(self, tunnel: TunnelSpec, health: Health, failure: Failure | None) -> None:
        before = self.results.get(tunnel.id)
        failures = (before.failures if before else 0) + 1 if failure is not None else 0
        self.results[tunnel.id] = Destination(failures, failure)
        if failure is not None:
            self._counters.failures(tunnel.id)[failure.reason] += 1
        if before != self.results[tunnel.id]:
            self._changed()
        if failures >= health.failure_threshold and health.reconnect:
            self._failing(tunnel)

    async def _open(self, tunnel: TunnelSpec, link: Link) -> Stream:
        match tunnel.route:
            case FarTcp() | FarUnix() as to:
                return _Channel(*await link.open_stream(to))
            case NearTcp() | NearUnix() as near:
                place = self._budget.take_client(_PROBES, "probes", tunnel.target)
                if place is None:
                    raise NoRoomError(self._budget.no_client())
                try:
                    return _Socket(*await _connected(near), place)
                except BaseException:
                    place.give_back()
                    raise
            case Socks():
                return _Nothing()  # the link is there and is heard: that is all a SOCKS tunnel promises


async def _connected(near: NearTcp | NearUnix) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    match near:
        case NearTcp():
            return await asyncio.open_connection(near.host, near.port)
        case NearUnix():
            return await asyncio.open_unix_connection(near.path)


def _asked(tunnel: TunnelSpec) -> tuple[str, Route, Health | None]:
    """What a probe depends on."""
    return tunnel.target, tunnel.route, tunnel.policy.health


class _Channel:
    """A channel as a stream."""

    def __init__(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, limit: int) -> bytes:
        try:
            return await self._reader.read(limit)
        except asyncssh.Error as error:
            raise OSError(str(error)) from error

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.channel.abort()


class _Socket:
    """A socket as a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: Place) -> None:
        self._reader = reader
        self._writer = writer
        self._place = place

    async def read(self, limit: int) -> bytes:
        return await self._reader.read(limit)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._place.give_back()
        with contextlib.suppress(OSError):
            self._writer.transport.abort()


class _Nothing:
    """A stream to nobody."""

    async def read(self, _limit: int) -> bytes:
        return b""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...
