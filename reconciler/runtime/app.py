"""The composition root: connects files, reconcile loop, actuator and reports, and shuts them down in order.

Owns the tasks of the process. Input: the configuration from the command line, and commands. Output: changes, events,
snapshots and the exit code. A failed task never ends another one: it is restarted. An action or a pass of the loop
that raises is a fault of this program: the loop logs it and retries. If the loop itself ends, the process logs that
and exits, so that its supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

from reconciler.config.load import Config, Loaded
from reconciler.config.watch import Watcher
from reconciler.core.actions import Assign
from reconciler.core.observed import EMPTY, Now, Observed, Reason
from reconciler.core.overlay import Overlay, Shard
from reconciler.core.plan import Plan
from reconciler.core.spec import NOTHING, Desired, TunnelSpec
from reconciler.core.status import Status, is_settled, make_status
from reconciler.core.subject import Subject
from reconciler.probes import PROBES
from reconciler.report.change_log import ChangeLogger
from reconciler.report.changes import Change, ChangeTracker
from reconciler.report.events import Event, Events, client_events
from reconciler.report.snapshot import Liveness, Snapshot
from reconciler.runtime import audit_log
from reconciler.runtime.config_store import ConfigStore
from reconciler.runtime.loop import Loop, SystemClock
from reconciler.runtime.probe_restart_policy import is_restart_due
from reconciler.runtime.shutdown import Shutdown
from reconciler.runtime.snapshot_builder import SnapshotBuilder
from reconciler.ssh.actuator import SshActuator
from reconciler.ssh.clients.connection import ClientConnection
from reconciler.system import descriptors
from reconciler.system.fault_log import FaultLog

log = logging.getLogger(__name__)

RESTART_AFTER = 1.0  # seconds before a failed background task is restarted
LAG_INTERVAL = 0.5  # seconds between two measurements of the event loop's lag
LAGS_KEPT = 30  # measurements of which the largest is reported: they cover the last 15 s


class App:
    """The running process without its endpoints. `on_change` is called with each change after it was logged."""

    def __init__(
        self, config: Config, *, on_change: Callable[[Change], None] | None = None, shard: Shard | None = None
    ) -> None:
        self.config = config
        self._on_change = on_change
        self._change_tracker = ChangeTracker()
        self._change_logger = ChangeLogger()
        self.events = Events()
        self.shutdown = Shutdown(self.reload)
        self._next_pass = asyncio.Event()
        self._has_ended = False
        self._reloads: set[asyncio.Task[Loaded]] = set()
        self.config_store = ConfigStore(config, self.events.add)
        self._overlay = Overlay(shard)
        self._fault_log = FaultLog()
        self.loop = Loop(SystemClock(), self._observed, failed=self._action_failed, fault_log=self._fault_log)
        self.budget = descriptors.budget()
        self.actuator = SshActuator(
            config.environ,
            PROBES,
            budget=self.budget,
            changed=self.loop.wake,
            failing=self._failing,
            audit=self._audit,
            cut=self._cut,
            fault_log=self._fault_log,
        )
        self._snapshot_builder = SnapshotBuilder(self.loop, self.actuator, self.config_store, self._change_tracker)
        self._watcher: Watcher | None = None
        self._lags = deque([0.0, 0.0], maxlen=LAGS_KEPT)
        self._planned_for: Desired = NOTHING  # the desired state of the last pass
        self._removed: Mapping[str, TunnelSpec] = {}  # removed tunnels that still have clients
        self._settled_for: Desired | None = None
        self._last_observed: Observed = EMPTY
        self.status: Status | None = None

    # --- life --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Converge until shutdown is requested. Return the exit code: 2 if the first load is not usable.

        An invalid file among valid ones is skipped, unless the options are strict.
        """
        try:
            loaded = await self._first_load()
            if loaded is None:
                return 0
            if not loaded.usable or (self.config.options.strict and not loaded.valid):
                return 2
            return await self._converge()
        finally:
            await self.actuator.close()
            self.events.close()
            self._has_ended = True
            self._next_pass.set()

    async def _converge(self) -> int:
        background = [
            asyncio.create_task(self._forever(self._watch, "watching the files"), name="file watcher"),
            asyncio.create_task(
                self._forever(self.actuator.maintain, "maintaining the links"), name="actuator maintenance"
            ),
            asyncio.create_task(
                self._forever(self._measure_lag, "measuring the event loop lag"), name="event loop lag"
            ),
        ]
        reconciling = asyncio.create_task(self.loop.run(self.actuator), name="reconcile loop")
        ending = asyncio.create_task(self._end(), name="shutdown")
        try:
            await asyncio.wait({reconciling, ending}, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                log.critical(
                    "the reconcile loop failed, the process exits: please report this with the log",
                    exc_info=reconciling.exception(),
                )
                return 1
            return 0
        finally:
            for task in (*background, reconciling, ending):
                task.cancel()
            await asyncio.gather(*background, reconciling, ending, return_exceptions=True)

    def end(self) -> None:
        """Stop accepting clients, drain the live ones, then return from `run`. A second call exits immediately."""
        self.shutdown.request()

    def reload(self) -> None:
        """Read the files again, as if they had changed."""
        task = asyncio.get_running_loop().create_task(self.load(requested=True), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _first_load(self) -> Loaded | None:
        """Return the first load, or None if shutdown is requested first: a pipe may have no end, a disk may hang."""
        loading = asyncio.create_task(self.load(), name="first load")
        ending = asyncio.create_task(self.shutdown.requested(), name="shutdown before the first load")
        try:
            await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
            return loading.result() if loading.done() else None
        finally:
            for task in (loading, ending):
                task.cancel()
            await asyncio.gather(loading, ending, return_exceptions=True)

    # --- tasks -------------------------------------------------------------------------------------------------

    async def _forever(self, work: Callable[[], Coroutine[None, None, None]], doing: str) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - supervision: log the error, restart the task
                self._fault_log.tell(f"{doing} failed and is restarted", error)
            await asyncio.sleep(RESTART_AFTER)

    def unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Exception handler of the event loop: the exception ended one callback and nothing else."""
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            # The message may contain object addresses; its first words are the same each time.
            words = str(context.get("message", "")).split()[:3]
            self._fault_log.tell(f"{' '.join(words)} ..." if words else "a callback raised", error)
        else:
            loop.default_exception_handler(context)

    async def _watch(self) -> None:
        async with Watcher(self.config.paths) as watcher:
            self._watcher = watcher
            loaded = await self.load()  # a file may have changed between the first load and the start of the watch
            while True:
                await watcher.watch_also(loaded.watched)
                change = await anext(watcher)
                if change.config:
                    loaded = await self.load()
                await self.actuator.files_changed()  # a target may wait for a key or a known_hosts file

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lags.append(max(0.0, loop.time() - due))
            if over := self._overlay.over_by(time.time()):
                self.resume(over, "the pause has expired")

    async def _end(self) -> None:
        await self.shutdown.requested()
        self.loop.set_desired(NOTHING)
        await self.shutdown.finished()

    # --- desired state -----------------------------------------------------------------------------------------

    async def load(self, *, requested: bool = False) -> Loaded:
        """Read the files and apply the valid ones. Log each problem that is new."""
        loaded = await self.config_store.load(requested=requested)
        if self._watcher is not None:
            self._watcher.look_again(loaded.unread)  # the cause may be temporary, such as a full descriptor table
        self._apply_desired()
        return loaded

    def with_overlay(self, desired: Desired) -> Desired:
        """Return the desired state of files with this process's pauses, restarts and shard applied."""
        return self._overlay.over(desired).sharing(self.loop.desired)

    def _apply_desired(self) -> None:
        if self.config_store.latest is not None and not self.is_ending:
            self.loop.set_desired(self._overlay.over(self.config_store.latest.desired))

    def restart(self, targets: Iterable[str], why: str) -> None:
        """Replace the links of targets, make before break."""
        for target in targets:
            self._overlay.restart(target)
            self._record(Subject("target", target), "restarted", why)
        self._apply_desired()

    def pause(self, tunnels: Iterable[str], until: float | None, why: str) -> None:
        """Turn tunnels off until `until` (Unix time), or until they are resumed. A reload does not resume them."""
        for tunnel in tunnels:
            self._overlay.pause([tunnel], until)
            self._record(Subject("tunnel", tunnel), "paused", why)
        self._apply_desired()

    def resume(self, tunnels: Iterable[str], why: str) -> None:
        """End the pauses of these tunnels."""
        for tunnel in tunnels:
            self._overlay.resume([tunnel])
            self._record(Subject("tunnel", tunnel), "resumed", why)
        self._apply_desired()

    def _record(self, subject: Subject, what: str, why: str) -> None:
        fields = {"target": subject.target, "tunnel": subject.tunnel}
        log.info("%s is %s: %s", subject, what, why, extra=fields)
        self.events.add(Event(time.time(), subject, what, message=why))

    def _failing(self, tunnel: TunnelSpec) -> None:
        """Restart the target of a tunnel whose failing probe may replace the link, if the policy allows it."""
        if is_restart_due(tunnel, self.actuator.records, self.actuator.clients, self.loop.now().mono):
            self.restart([tunnel.target], f"the health probe of tunnel {tunnel.id} fails")

    # --- reports -----------------------------------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        """Shutdown was requested."""
        return self.shutdown.is_requested

    @property
    def loaded(self) -> Loaded | None:
        """The result of the last load."""
        return self.config_store.latest

    def liveness(self) -> Liveness:
        """Return the signs of life, at a cost that does not depend on the number of tunnels."""
        passed = self.loop.passed_at
        age = self.loop.now().mono - passed if passed is not None else None
        *_, second_lag, lag = sorted(self._lags)
        failed = self.loop.failed_passes
        fault = f"a fault of this program: the last {failed} passes of the reconcile loop failed; see the log"
        return Liveness(age, lag, second_lag, self.is_ending, fault if failed else "")

    def snapshot(self) -> Snapshot:
        """Return everything that can be reported about this moment."""
        return self._snapshot_builder.take(
            self.status or Status((), ()),
            self._last_observed,
            self.liveness(),
            settled=self.settled,
            watching=self._watcher is not None and self._watcher.active,
        )

    @property
    def settled(self) -> bool:
        """The desired state needs no action now, except to wait or to retry."""
        return self._settled_for is self.loop.desired

    @property
    def is_status_current(self) -> bool:
        """The status was made for the present desired state, not for the one before an edit."""
        return self._planned_for is self.loop.desired

    async def passed(self) -> bool:
        """Return after the next pass of the loop: True, or False if there will be none."""
        await self._next_pass.wait()
        return not self._has_ended

    def _action_failed(self, subject: str) -> None:
        """Count an action on this target or tunnel that raised."""
        records = self.actuator.records
        record = records.tunnel(subject) if "/" in subject else records.target(subject)
        record.failures[Reason.INTERNAL] += 1

    def _observed(self, desired: Desired, planned_from: Observed, plan: Plan, now: Now) -> None:
        try:
            self._report(desired, planned_from, plan, now)
        finally:
            self._next_pass.set()
            self._next_pass = asyncio.Event()

    def _report(self, desired: Desired, planned_from: Observed, plan: Plan, now: Now) -> None:
        # After an `Assign`, report the state after the handover: no tunnel is down while two tunnels swap ports or one
        # is renamed.
        handed_over = any(isinstance(action, Assign) for action in plan.actions)
        observed = planned_from
        if handed_over:
            observed = replace(self.actuator.observe(), faults=planned_from.faults)
        self._note_removed(desired, observed)
        broken = self.config_store.latest.broken if self.config_store.latest else {}
        why_removed = "the process is ending" if self.is_ending else "removed"
        self.status = make_status(desired, observed, now, broken, self._removed.values(), why_removed)
        self._last_observed = observed
        self._settled_for = desired if not plan.actions and is_settled(desired, observed) else None
        changes = self._change_tracker.update(self.status, now.wall)
        self._change_logger.log_changes(changes, self.status, now.mono)
        for event in (*map(Event.of, changes), *client_events(plan.actions, planned_from, now.wall)):
            self.events.add(event)
        if self._on_change is not None:
            for change in changes:
                self._on_change(change)
        if self.is_ending and desired is self.loop.desired and not plan.actions:
            self.shutdown.update(observed)

    def _note_removed(self, desired: Desired, observed: Observed) -> None:
        """Remember removed tunnels as long as they have clients."""
        if desired is self._planned_for and not self._removed:
            return
        busy = {flow.key.tunnel for flow in observed.flows}
        before = (*self._removed.values(), *self._planned_for.tunnels.values())
        self._removed = {gone.id: gone for gone in before if gone.id in busy and gone.id not in desired.tunnels}
        self._planned_for = desired

    def _cut(self, tunnel: TunnelSpec, why: str) -> None:
        self.events.add(Event(time.time(), Subject("tunnel", tunnel.id), "cut", message=why))

    def _audit(self, connection: ClientConnection) -> None:
        audit_log.write(connection, self.config_store.latest.revision if self.config_store.latest else "")
