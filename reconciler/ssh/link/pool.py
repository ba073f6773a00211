"""The pool of links: dials them, gives them to clients, and closes them.

Owns each `Link` and its record, and the failed tries of targets. Input: the planner's Dial, Retire and Tune. Output:
`LinkState`s and `Tries`, and links for clients (`select`, `wait`). Calls `changed` when the planner should run again,
and `lost` when a link has ended with everything on it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from reconciler.core import backoff
from reconciler.core.descriptor_budget import Budget
from reconciler.core.faults import internal
from reconciler.core.observed import Failure, LinkPhase, LinkState, Tries
from reconciler.core.spec import NOTHING, Access, AgentLogin, Desired, TargetSettings, TargetSpec
from reconciler.ssh.connect.dial import DialFailed, Dialled, dial, fingerprint, fingerprints
from reconciler.ssh.counters import Counters
from reconciler.ssh.link.link import Link, LinkClient
from reconciler.ssh.relay.flows import Flows
from reconciler.system.fault_log import FaultLog

WOKEN_AT_ONCE = 4  # held clients that continue in one iteration of the loop


@dataclass(slots=True)
class _Record:
    state: LinkState
    fingerprint: str = ""  # of the files that its access names, when it was dialled or last checked for trust
    task: asyncio.Task[None] | None = None
    link: Link | None = None


# Descriptors of a connection: its socket; with a proxy command its pipe, its standard error and its process.
_BY_TCP, _BY_COMMAND = 1, 3


class LinkPool:
    """Dials, selects and closes links.

    changed  called when the planner should run again
    lost     called with the number of a link that has ended by itself
    """

    def __init__(
        self,
        flows: Flows,
        environ: Mapping[str, str],
        *,
        budget: Budget,
        changed: Callable[[], None],
        lost: Callable[[int], None],
        counters: Counters,
        fault_log: FaultLog,
    ) -> None:
        self._flows = flows
        self._fault_log = fault_log
        self._counters = counters
        self._environ = environ
        self._budget = budget
        self._changed = changed
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._records: dict[int, _Record] = {}
        self._next = 1
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}  # by target: ordered sets, oldest first
        self._woken: deque[asyncio.Future[None]] = deque()
        self._desired = NOTHING
        self.tries: dict[str, Tries] = {}
        self.fingerprints: dict[str, str] = {}  # by target that has tries: of the files that it names, now

    # --- actions of the planner --------------------------------------------------------------------------------

    def dial(self, target: TargetSpec, limit: int) -> None:
        number, self._next = self._next, self._next + 1
        now = self._loop.time()
        state = LinkState(
            number, target.name, target.access, target.settings, limit, -1, None, LinkPhase.DIALING, now, trusted=True
        )
        record = self._records[number] = _Record(state)
        record.task = self._loop.create_task(self._supervise(record, target), name=f"dial {target.name}")

    async def _supervise(self, record: _Record, target: TargetSpec) -> None:
        """Dial. Count an internal error as a failed try: without a record it would never be retried."""
        try:
            await self._dial(record, target)
        except Exception as error:  # noqa: BLE001 - the target must be tried again
            self._fault_log.tell("connecting", error, subject=target.name)
            self._records.pop(record.state.id, None)
            self.tries[target.name] = backoff.failed(
                self.tries.get(target.name),
                internal("connecting", error),
                self._loop.time(),
                target.access,
                record.fingerprint,
            )
            self._changed()

    async def _dial(self, record: _Record, target: TargetSpec) -> None:
        place = self._budget.take_link(_BY_COMMAND if target.access.proxy_command else _BY_TCP)
        agents = self._budget.take_link(_agents(target.access))
        if place is None or agents is None:
            for taken in (place, agents):
                if taken is not None:
                    taken.give_back()
            self._failed(record, self._budget.no_link())
            self._changed()
            return
        client = LinkClient(place)
        try:
            record.fingerprint = await fingerprint(target.access, self._environ)
            dialled = await dial(
                target.access,
                target.settings,
                record.state.limit,
                name=target.name,
                client=lambda: client,
                environ=self._environ,
            )
            await self._check_trust_of_others(record, dialled)
        except DialFailed as error:
            self._failed(record, error.failure)
        else:
            try:
                self._ready(record, target, dialled, client)
            except BaseException:
                self._records.pop(record.state.id, None)
                dialled.connection.abort()
                raise
        finally:
            agents.give_back()
            if record.link is None:
                place.give_back()
        self._changed()

    def _ready(self, record: _Record, target: TargetSpec, dialled: Dialled, client: LinkClient) -> None:
        """Make a new connection usable for clients and listeners."""
        record.task = None
        number = record.state.id
        record.link = Link(
            number,
            target.name,
            dialled,
            client,
            target.settings,
            lost=lambda failure: self._link_lost(number, failure),
            recovered=lambda: self._link_recovered(target.name),
        )
        record.state = replace(
            record.state,
            phase=LinkPhase.READY,
            host=dialled.host,
            preferred_host_failure=dialled.preferred_host_failure,
            since=self._loop.time(),
        )
        counters = self._counters.target(target.name)
        counters.connects.observe(dialled.seconds)
        counters.certificate_expires = dialled.certificate_expires
        self._wake(target.name)

    def _failed(self, record: _Record, failure: Failure) -> None:
        """Count a failed dial, unless its access is no longer the desired one."""
        state = record.state
        del self._records[state.id]
        if not self._is_wanted(state):
            return
        self._counters.target(state.target).failures[failure.reason] += 1
        self.tries[state.target] = tries = backoff.failed(
            self.tries.get(state.target), failure, self._loop.time(), state.access, record.fingerprint
        )
        self.fingerprints[state.target] = record.fingerprint if tries.access is not None else ""

    def retire(self, number: int) -> None:
        record = self._records[number]
        if record.link is None:
            assert record.task is not None
            record.task.cancel()
            del self._records[number]
        else:
            record.state = replace(record.state, phase=LinkPhase.RETIRING, since=self._loop.time())

    def apply_settings(self, number: int, settings: TargetSettings) -> None:
        record = self._records[number]
        if record.link is not None:
            record.link.apply_settings(settings)
        record.state = replace(record.state, settings=settings)

    # --- links for clients -------------------------------------------------------------------------------------

    def select(self, target: str, desired: Desired) -> Link | None:
        """Return the link for a new client: of the desired access if possible, with the fewest clients."""
        spec = desired.targets.get(target)
        usable = [
            (spec is None or record.state.access != spec.access, self._flows.on_link(number), number, record.link)
            for number, record in self._records.items()
            if record.state.target == target
            and record.state.phase is LinkPhase.READY
            and record.link is not None
            and not record.link.stalled
        ]
        return min(usable)[3] if usable else None

    async def wait(self, target: str) -> None:
        """Return when a link of this target may have become usable."""
        future = self._loop.create_future()
        waiting = self._waiting.setdefault(target, {})
        waiting[future] = None
        try:
            await future
        finally:
            waiting.pop(future, None)
            if not waiting and self._waiting.get(target) is waiting:
                del self._waiting[target]

    def _link_recovered(self, target: str) -> None:
        self._wake(target)
        self._changed()

    def _wake(self, target: str) -> None:
        """Let the clients that wait for this target continue in their order, a few in each iteration of the loop.

        Each opens a channel: 2,000 of them in one iteration stopped the loop for 0.3 s.
        """
        is_under_way = bool(self._woken)
        self._woken.extend(self._waiting.pop(target, ()))
        if not is_under_way:
            self._wake_some()

    def _wake_some(self) -> None:
        remaining = WOKEN_AT_ONCE
        while self._woken and remaining:
            future = self._woken.popleft()
            if not future.done():
                future.set_result(None)
                remaining -= 1
        if self._woken:
            self._loop.call_soon(self._wake_some)

    # --- the end of a link -------------------------------------------------------------------------------------

    def _link_lost(self, number: int, failure: Failure) -> None:
        record = self._records.pop(number, None)
        if record is None:
            return
        state = record.state
        if state.phase is LinkPhase.READY:
            now = self._loop.time()
            self._counters.target(state.target).failures[failure.reason] += 1
            if state.trusted and self._is_wanted(state):
                self.tries[state.target] = backoff.lost(
                    self.tries.get(state.target), failure, now, now - state.since, state.access, record.fingerprint
                )
        self._lost(number)
        self._changed()

    def get(self, number: int) -> Link | None:
        """Return the live link of that number, None if it has ended or is still being dialled."""
        record = self._records.get(number)
        return record.link if record else None

    def retiring(self) -> list[int]:
        """Return the numbers of the retiring links: they still exist and take no new clients."""
        return [number for number in self._records if self.is_retiring(number)]

    def is_retiring(self, number: int) -> bool:
        record = self._records.get(number)
        return record is not None and record.state.phase is LinkPhase.RETIRING

    def close(self, number: int) -> None:
        """Close a retiring link that carries nothing any more."""
        record = self._records[number]
        if record.link is not None:
            record.link.close()
        del self._records[number]

    def abort_all(self) -> list[asyncio.Task[None]]:
        """End all links now. Returns the cancelled dials, to be awaited."""
        tasks = [record.task for record in self._records.values() if record.task is not None]
        for record in self._records.values():
            if record.link is not None:
                record.link.abort()
            elif record.task is not None:
                record.task.cancel()
        self._records.clear()
        return tasks

    # --- observed state ----------------------------------------------------------------------------------------

    def states(self) -> tuple[LinkState, ...]:
        return tuple(record.state for record in self._records.values())

    def links(self) -> Mapping[int, Link]:
        """Return the live links by number, retiring ones included."""
        return MappingProxyType({n: record.link for n, record in self._records.items() if record.link is not None})

    def stalled(self) -> frozenset[int]:
        """Return the numbers of the links from which nothing arrived for a keepalive interval."""
        return frozenset(number for number, link in self.links().items() if link.stalled)

    async def check_files(self) -> bool:
        """Check the files that targets name. Returns True if the planner should run again.

        A changed credential is a reason to try again. Changed known hosts may end or restore the trust in a live link.
        """
        accesses = {tries.access for tries in self.tries.values() if tries.access is not None}
        records = list(self._records.values())
        now = await fingerprints(accesses | {record.state.access for record in records if record.link}, self._environ)
        before = dict(self.fingerprints)
        for name, tries in self.tries.items():
            if tries.access is None:
                self.fingerprints[name] = ""
            elif tries.access in now:
                self.fingerprints[name] = now[tries.access]
        trust_changes = await asyncio.gather(
            *(self._check_trust(record, now[record.state.access]) for record in records if record.state.access in now)
        )
        return any(trust_changes) or before != self.fingerprints

    async def _check_trust_of_others(self, record: _Record, dialled: Dialled) -> None:
        """Check the trust in the links that a new one replaces, by the files that it has read: it may be restored."""
        others = [
            other
            for other in self._records.values()
            if other.link is not None and other.state.target == record.state.target
        ]
        try:
            now = await fingerprints({other.state.access for other in others}, self._environ)
            await asyncio.gather(*(self._check_trust(other, now[other.state.access]) for other in others))
        except BaseException:
            dialled.connection.abort()
            raise

    async def _check_trust(self, record: _Record, fingerprint: str) -> bool:
        """Check the trust in a link by files with this fingerprint. Returns True if the result changed."""
        if record.link is None or fingerprint == record.fingerprint:
            return False
        record.fingerprint = fingerprint
        trusted = await record.link.is_trusted()
        before, record.state = record.state, replace(record.state, trusted=trusted)
        return record.state.trusted is not before.trusted

    def _is_wanted(self, state: LinkState) -> bool:
        target = self._desired.targets.get(state.target)
        return target is not None and target.access == state.access

    def end_outages(self) -> bool:
        """Drop the tries of targets that have been up for long enough. Returns True if there were any."""
        now = self._loop.time()
        over = {
            record.state.target
            for record in self._records.values()
            if record.state.phase is LinkPhase.READY
            and (tries := self.tries.get(record.state.target)) is not None
            and backoff.is_over(tries, record.state.since, now)
        }
        for name in over:
            del self.tries[name]
            self.fingerprints.pop(name, None)
        return bool(over)

    def set_desired(self, desired: Desired) -> None:
        """Set the desired state. Drop the tries of targets, and of accesses, that are not desired."""
        self._desired = desired
        accesses = {name: target.access for name in self.tries if (target := desired.targets.get(name)) is not None}
        for name in [name for name, tries in self.tries.items() if accesses.get(name) != tries.access]:
            del self.tries[name]
            self.fingerprints.pop(name, None)


def _agents(access: Access) -> int:
    """Return how many connections to agents a dial keeps open until it ends."""
    return sum(isinstance(login, AgentLogin) for hop in (*access.via, access.hop) for login in hop.logins)
