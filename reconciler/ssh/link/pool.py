"""The pool of links: dials them, gives them to clients, and closes them.

Owns each `Link` and its record, and the failed tries in the records of targets. Input: the planner's Dial, Retire and
Tune. Output: `LinkState`s, and links for clients (`select`, `wait`). Calls `changed` when the planner should run again,
and `lost` when a link has ended with everything on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from reconciler.core import backoff, losses
from reconciler.core.descriptor_budget import Budget
from reconciler.core.faults import internal
from reconciler.core.observed import Failure, LinkPhase, LinkState
from reconciler.core.spec import NOTHING, Access, AgentLogin, Desired, TargetSettings, TargetSpec
from reconciler.core.subject import Subject
from reconciler.ssh.connect.dial import DialFailed, Dialled, dial, fingerprint
from reconciler.ssh.link import link_record
from reconciler.ssh.link.link import Link, LinkClient
from reconciler.ssh.link.link_record import LinkRecord
from reconciler.ssh.link.wake_queue import WakeQueue
from reconciler.ssh.records import Records, TargetRecord
from reconciler.system.fault_log import FaultLog

log = logging.getLogger(__name__)

# Descriptors of a connection: its socket; with a proxy command its pipe, its standard error and its process.
_BY_TCP, _BY_COMMAND = 1, 3


class LinkPool:
    """Dials, selects and closes links.

    clients_on  returns how many clients a link carries
    changed     called when the planner should run again
    lost        called with the number of a link that has ended by itself
    """

    def __init__(
        self,
        clients_on: Callable[[int], int],
        environ: Mapping[str, str],
        *,
        budget: Budget,
        changed: Callable[[], None],
        lost: Callable[[int], None],
        records: Records,
        fault_log: FaultLog,
    ) -> None:
        self._clients_on = clients_on
        self._fault_log = fault_log
        self._records = records
        self._environ = environ
        self._budget = budget
        self._changed = changed
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._links: dict[int, LinkRecord] = {}
        self._next = 1
        self._wake_queue = WakeQueue()
        self._desired = NOTHING

    # --- actions of the planner --------------------------------------------------------------------------------

    def dial(self, target: TargetSpec, limit: int) -> None:
        number, self._next = self._next, self._next + 1
        now = self._loop.time()
        state = LinkState(
            number, target.name, target.access, target.settings, limit, -1, None, LinkPhase.DIALING, now, trusted=True
        )
        record = self._links[number] = LinkRecord(state, self._records.target(target.name))
        record.task = self._loop.create_task(self._supervise(record, target), name=f"dial {target.name}")

    async def _supervise(self, record: LinkRecord, target: TargetSpec) -> None:
        """Dial. Count an internal error as a failed try: without a record it would never be retried."""
        try:
            await self._dial(record, target)
        except Exception as error:  # noqa: BLE001 - the target must be tried again
            self._fault_log.tell("connecting", error, subject=Subject("target", target.name))
            self._links.pop(record.state.id, None)
            record.target.tries = backoff.failed(
                record.target.tries,
                internal("connecting", error),
                self._loop.time(),
                target.access,
                record.fingerprint,
            )
            self._changed()

    async def _dial(self, record: LinkRecord, target: TargetSpec) -> None:
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
                heard=lambda text: _log_words(record.target, text),
            )
            await self._check_trust_of_others(record.target, dialled)
        except DialFailed as error:
            self._failed(record, error.failure)
        else:
            try:
                self._ready(record, target, dialled, client)
            except BaseException:
                self._links.pop(record.state.id, None)
                dialled.connection.abort()
                raise
        finally:
            agents.give_back()
            if record.link is None:
                place.give_back()
        self._changed()

    def _ready(self, record: LinkRecord, target: TargetSpec, dialled: Dialled, client: LinkClient) -> None:
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
            recovered=lambda: self._link_recovered(record),
            doubted=self._changed,
        )
        record.state = replace(
            record.state,
            phase=LinkPhase.READY,
            host=dialled.host,
            preferred_host_failure=dialled.preferred_host_failure,
            remark=dialled.said,
            since=self._loop.time(),
        )
        record.target.connects.observe(dialled.seconds)
        record.target.certificate_expires = dialled.certificate_expires
        self._wake_queue.wake(record.target)

    def _failed(self, record: LinkRecord, failure: Failure) -> None:
        """Count a failed dial, unless its access is no longer the desired one."""
        state, target = record.state, record.target
        del self._links[state.id]
        if not self._is_wanted(state):
            return
        target.failures[failure.reason] += 1
        target.tries = backoff.failed(target.tries, failure, self._loop.time(), state.access, record.fingerprint)
        target.fingerprint = record.fingerprint

    def retire(self, number: int) -> None:
        record = self._links[number]
        if record.link is None:
            assert record.task is not None
            record.task.cancel()
            del self._links[number]
        else:
            record.state = replace(record.state, phase=LinkPhase.RETIRING, since=self._loop.time())

    def apply_settings(self, number: int, settings: TargetSettings) -> None:
        record = self._links[number]
        if record.link is not None:
            record.link.apply_settings(settings)
        record.state = replace(record.state, settings=settings)

    # --- links for clients -------------------------------------------------------------------------------------

    def select(self, target: str, desired: Desired) -> Link | None:
        """Return the link for a new client: of the desired access if possible, with the fewest clients."""
        spec = desired.targets.get(target)
        usable = [
            (spec is None or record.state.access != spec.access, self._clients_on(number), number, record.link)
            for number, record in self._links.items()
            if record.state.target == target
            and record.state.phase is LinkPhase.READY
            and record.link is not None
            and not record.link.stalled
        ]
        return min(usable)[3] if usable else None

    async def wait(self, target: str) -> None:
        """Return when a link of this target may have become usable."""
        await self._wake_queue.wait(self._records.target(target))

    def _link_recovered(self, record: LinkRecord) -> None:
        if record.state.phase is LinkPhase.READY and self._is_wanted(record.state):
            record.target.clear_tries()  # of dials while it was in doubt
            self._wake_queue.wake(record.target)
        self._changed()

    # --- the end of a link -------------------------------------------------------------------------------------

    def _link_lost(self, number: int, failure: Failure) -> None:
        record = self._links.pop(number, None)
        if record is None:
            return
        state, target = record.state, record.target
        if state.phase is LinkPhase.READY:
            now = self._loop.time()
            target.failures[failure.reason] += 1
            if state.trusted and self._is_wanted(state):
                idle = record.link.idle if record.link is not None else 0.0
                interval = state.settings.keepalive_interval
                target.losses.append(losses.Loss(failure, idle, now - state.since, interval))
                failure = losses.pattern(target.losses) or failure
                target.tries = backoff.lost(
                    target.tries, failure, now, now - state.since, state.access, record.fingerprint
                )
        self._lost(number)
        self._changed()

    def get(self, number: int) -> Link | None:
        """Return the live link of that number, None if it has ended or is still being dialled."""
        record = self._links.get(number)
        return record.link if record else None

    def is_retiring(self, number: int) -> bool:
        record = self._links.get(number)
        return record is not None and record.state.phase is LinkPhase.RETIRING

    def close(self, number: int) -> None:
        """Close a retiring link that carries nothing any more."""
        record = self._links[number]
        if record.link is not None:
            record.link.close()
        del self._links[number]

    def abort_all(self) -> list[asyncio.Task[None]]:
        """End all links now. Returns the cancelled dials, to be awaited."""
        tasks = [record.task for record in self._links.values() if record.task is not None]
        for record in self._links.values():
            if record.link is not None:
                record.link.abort()
            elif record.task is not None:
                record.task.cancel()
        self._links.clear()
        return tasks

    # --- observed state ----------------------------------------------------------------------------------------

    def states(self) -> tuple[LinkState, ...]:
        return tuple(record.state for record in self._links.values())

    def links(self) -> Mapping[int, Link]:
        """Return the live links by number, retiring ones included."""
        return MappingProxyType({n: record.link for n, record in self._links.items() if record.link is not None})

    def doubt_stalled(self) -> None:
        """Let the clients of links that may be dead wait for another link."""
        for link in self.links().values():
            if link.stalled:
                link.doubt()

    def stalled(self) -> frozenset[int]:
        """Return the numbers of the links that may be dead."""
        return frozenset(number for number, link in self.links().items() if link.stalled)

    async def check_files(self) -> bool:
        """Check the files that targets name. Returns True if the planner should run again."""
        return await link_record.check_files(self._records.targets(), tuple(self._links.values()), self._environ)

    async def _check_trust_of_others(self, target: TargetRecord, dialled: Dialled) -> None:
        """Check the trust in the links that a new one replaces, by the files that it has read: it may be restored."""
        others = [record for record in self._links.values() if record.link is not None and record.target is target]
        try:
            await link_record.check_trust(others, self._environ)
        except BaseException:
            dialled.connection.abort()
            raise

    def _is_wanted(self, state: LinkState) -> bool:
        target = self._desired.targets.get(state.target)
        return target is not None and target.access == state.access

    def end_outages(self) -> bool:
        """Drop the tries of targets that have been up for long enough. Returns True if there were any."""
        now = self._loop.time()
        over = {
            record.target
            for record in self._links.values()
            if record.state.phase is LinkPhase.READY
            and record.target.tries is not None
            and backoff.is_over(record.target.tries, record.state.since, now)
        }
        for target in over:
            target.clear_tries()
        for record in self._links.values():
            if record.state.phase is LinkPhase.READY and losses.is_over(record.target.losses, now - record.state.since):
                record.target.losses.clear()
        return bool(over)

    def set_desired(self, desired: Desired) -> None:
        """Set the desired state. Drop the tries of targets, and of accesses, that are not desired."""
        self._desired = desired
        for target in self._records.targets():
            spec = desired.targets.get(target.name)
            if target.tries is not None and (spec is None or spec.access != target.tries.access):
                target.clear_tries()


def _log_words(target: TargetRecord, text: str) -> None:
    """Log what a server says during a login, unless it said the same lately: most say it at each login."""
    if text in target.words_logged:
        return
    target.words_logged.append(text)
    log.info("target %s: %s", target.name, text, extra={"target": target.name})


def _agents(access: Access) -> int:
    """Return how many connections to agents a dial keeps open until it ends."""
    return sum(isinstance(login, AgentLogin) for hop in (*access.via, access.hop) for login in hop.logins)
