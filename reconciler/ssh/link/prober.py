"""Probes the destinations of tunnels through their links, at the interval in each tunnel's `health`.

Owns the task of each probe. Input: the desired tunnels and the known probes. Output: the result in the record of each
tunnel, and a call of `failing` when a failed probe should get its tunnel a new link (`reconnect`). No probe runs while
the link is down: the status has a reason for that already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping

import asyncssh

from reconciler.core.descriptor_budget import Budget, NoRoomError, Place
from reconciler.core.faults import internal
from reconciler.core.interfaces import Probe, Stream
from reconciler.core.observed import Destination, Failure, Reason
from reconciler.core.spec import FarTcp, FarUnix, Health, NearTcp, NearUnix, Route, Socks, TunnelSpec
from reconciler.ssh.errors.channel_errors import from_channel_open
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import Records, RunningProbe, TunnelRecord

log = logging.getLogger(__name__)

_PROBES = "probes"  # owner, in the descriptor budget, of the sockets that probes open here


class Prober:
    """Runs the probes.

    select_link   returns a usable link of a target, or None
    wait          returns when a target may have another usable link
    failing       called with a tunnel that should get a new link
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        *,
        budget: Budget,
        select_link: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
        failing: Callable[[TunnelSpec], None],
        records: Records,
    ) -> None:
        self._probes = probes
        self._budget = budget
        budget.add_owner(_PROBES)
        self._records = records
        self._select_link = select_link
        self._wait = wait
        self._changed = changed
        self._failing = failing

    def set_tunnels(self, tunnels: Mapping[str, TunnelSpec]) -> None:
        """Probe these tunnels from now on. A changed target, route or `health` restarts the tunnel's probe."""
        for record in self._records.tunnels():
            if record.probe is not None and record.id not in tunnels:
                _stop(record)
        for tunnel in tunnels.values():
            record = self._records.tunnel(tunnel.id)
            if record.probe is not None and _probe_inputs(record.probe.tunnel) != _probe_inputs(tunnel):
                _stop(record)
            if record.probe is None and tunnel.policy.health is not None:
                record.probe = probe = RunningProbe(tunnel)
                work = self._run(record, probe, tunnel.policy.health)
                probe.task = asyncio.create_task(work, name=f"probe {tunnel.id}")

    async def close(self) -> None:
        """Stop all probes."""
        probes = [record.probe for record in self._records.tunnels() if record.probe is not None]
        self.set_tunnels({})
        await asyncio.gather(*(probe.task for probe in probes if probe.task is not None), return_exceptions=True)

    async def _run(self, record: TunnelRecord, probe: RunningProbe, health: Health) -> None:
        tunnel = probe.tunnel
        while True:
            link = self._select_link(tunnel.target)
            if link is not None:
                await self._probe(record, probe, health, link)
            # Probe a new link at once: the result over the old one may not apply to it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(health.interval):
                    await self._wait(tunnel.target)

    async def _probe(self, record: TunnelRecord, probe: RunningProbe, health: Health, link: Link) -> None:
        tunnel = probe.tunnel
        started = asyncio.get_running_loop().time()
        try:
            failure = await self._once(tunnel, health, link)
        except NoRoomError as full:
            log.debug("%s: not probed: %s", tunnel.id, full.failure.message)  # this says nothing about the destination
            return
        except Exception as error:  # a bug in a probe is reported as one, and the tunnel keeps running
            log.exception("%s: internal error while probing: please report it", tunnel.id)
            failure = internal("probing", error)
        if not link.gone:
            self._records.target(tunnel.target).probes.observe(asyncio.get_running_loop().time() - started)
            self._record(record, probe, health, failure)

    async def _once(self, tunnel: TunnelSpec, health: Health, link: Link) -> Failure | None:
        """Run the probe once. Returns its failure or None. Raises NoRoomError if the budget has no descriptor left."""

        async def opener() -> Stream | Failure:
            try:
                return await self._open(tunnel, link)
            except NoRoomError:
                raise
            except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
                return from_channel_open(error, str(tunnel.route), link.dialled.server)

        try:
            async with asyncio.timeout(health.timeout):
                return await self._probes[health.type](opener, health, tunnel.route)
        except TimeoutError:
            return Failure(
                Reason.PROBE, f"{tunnel.route} did not answer the {health.type} probe in {health.timeout:g} s"
            )

    def _record(self, record: TunnelRecord, probe: RunningProbe, health: Health, failure: Failure | None) -> None:
        before = probe.result
        failures = (before.failures if before else 0) + 1 if failure is not None else 0
        probe.result = Destination(failures, failure)
        if failure is not None:
            record.failures[failure.reason] += 1
        if before != probe.result:
            self._changed()
        if failures >= health.failure_threshold and health.reconnect:
            self._failing(probe.tunnel)

    async def _open(self, tunnel: TunnelSpec, link: Link) -> Stream:
        match tunnel.route:
            case FarTcp() | FarUnix() as to:
                return await link.open_stream(to)
            case NearTcp() | NearUnix() as to:
                place = self._budget.take_client(_PROBES, "probes", tunnel.target)
                if place is None:
                    raise NoRoomError(self._budget.no_client())
                try:
                    return _SocketStream(*await _connected(to), place)
                except BaseException:
                    place.give_back()
                    raise
            case Socks():
                return _NullStream()  # a SOCKS tunnel has no destination: a usable link is all there is to probe


async def _connected(to: NearTcp | NearUnix) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    match to:
        case NearTcp():
            return await asyncio.open_connection(to.host, to.port)
        case NearUnix():
            return await asyncio.open_unix_connection(to.path)


def _stop(record: TunnelRecord) -> None:
    if record.probe is not None and record.probe.task is not None:
        record.probe.task.cancel()
    record.probe = None


def _probe_inputs(tunnel: TunnelSpec) -> tuple[str, Route, Health | None]:
    """Return the parts of a tunnel that its probe depends on."""
    return tunnel.target, tunnel.route, tunnel.policy.health


class _SocketStream:
    """A socket as a `Stream`."""

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


class _NullStream:
    """A stream that is at its end."""

    async def read(self, _limit: int) -> bytes:
        return b""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...
