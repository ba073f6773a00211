"""The daemon: creates the parts of the process (files, engine, reports), connects them and shuts them down in order.

Owns the tasks of the process. Input: the configuration from the command line. Output: changes, events, snapshots and
the exit code. A failed task never ends another one: it is restarted. An internal error in an action or a pass of the
loop is logged and retried. If the loop itself ends, the process logs that and exits, so that its supervisor restarts
it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from reconciler.config.load import Config, Loaded
from reconciler.config.watch import Watcher
from reconciler.core.observed import Now, Observed
from reconciler.core.plan import Plan
from reconciler.core.shard import Shard
from reconciler.core.status import Status
from reconciler.report.change_log import ChangeLogger
from reconciler.report.changes import Change, ChangeTracker
from reconciler.report.events import Event, Events, client_events
from reconciler.report.history import Histories
from reconciler.report.snapshot import Liveness, Snapshot
from reconciler.report.tunnel_detail import TunnelDetail
from reconciler.runtime import audit_log
from reconciler.runtime.background import forever
from reconciler.runtime.config_store import ConfigStore
from reconciler.runtime.engine import Engine
from reconciler.runtime.shutdown import Shutdown
from reconciler.runtime.snapshot_builder import SnapshotBuilder
from reconciler.ssh.clients.connection import ClientConnection
from reconciler.system import descriptors

log = logging.getLogger(__name__)

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
        self._histories = Histories()
        self.events = Events[Event]()
        self.shutdown = Shutdown(self.reload)
        self._reloads: set[asyncio.Task[Loaded]] = set()
        self.config_store = ConfigStore(config, self.events.add)
        self.budget = descriptors.budget()
        self.engine = Engine(
            config.environ,
            shard=shard,
            budget=self.budget,
            on_pass=self._report,
            on_event=self.events.add,
            audit=self._audit,
        )
        self._snapshot_builder = SnapshotBuilder(self.engine, self.config_store, self._change_tracker, self._histories)
        self._watcher: Watcher | None = None
        self._lags = deque([0.0, 0.0], maxlen=LAGS_KEPT)

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
            if (shard := self.engine.shard) is not None:
                log.info(
                    "shard %s serves %d of %d targets",
                    shard,
                    len(self.engine.desired.targets),
                    len(loaded.desired.targets),
                )
            return await self._converge()
        finally:
            await self.engine.close()
            self.events.close()

    async def _converge(self) -> int:
        fault_log = self.engine.fault_log
        background = [
            asyncio.create_task(forever(self._watch, "watching the files", fault_log), name="file watcher"),
            asyncio.create_task(
                forever(self._measure_lag, "measuring the event loop lag", fault_log), name="event loop lag"
            ),
        ]
        reconciling = asyncio.create_task(self.engine.run(), name="reconcile loop")
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

    async def _end(self) -> None:
        await self.shutdown.requested()
        self.engine.stop()
        await self.shutdown.finished()

    def unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Exception handler of the event loop: the exception ended one callback and nothing else."""
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            # The message may contain object addresses; its first words are the same each time.
            words = str(context.get("message", "")).split()[:3]
            self.engine.fault_log.tell(f"{' '.join(words)} ..." if words else "a callback raised", error)
        else:
            loop.default_exception_handler(context)

    # --- files -------------------------------------------------------------------------------------------------

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

    async def load(self, *, requested: bool = False) -> Loaded:
        """Read the files and apply the valid ones. Log each problem that is new."""
        loaded = await self.config_store.load(requested=requested)
        if self._watcher is not None:
            self._watcher.look_again(loaded.unread)  # the cause may be temporary, such as a full descriptor table
        if not self.is_ending:
            self.engine.configure(loaded.desired, loaded.broken)
        return loaded

    def reload(self) -> None:
        """Read the files again, as if they had changed."""
        task = asyncio.get_running_loop().create_task(self.load(requested=True), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _watch(self) -> None:
        policy = self.config.policy
        async with Watcher((*self.config.paths, *([policy.path] if policy else []))) as watcher:
            self._watcher = watcher
            loaded = await self.load()  # a file may have changed between the first load and the start of the watch
            while True:
                await watcher.watch_also(loaded.watched)
                change = await anext(watcher)
                if change.config:
                    loaded = await self.load()
                await self.engine.actuator.files_changed()  # a target may wait for a key or a known_hosts file

    # --- reports -----------------------------------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        """True if shutdown was requested."""
        return self.shutdown.is_requested

    @property
    def loaded(self) -> Loaded | None:
        """The result of the last load."""
        return self.config_store.latest

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lags.append(max(0.0, loop.time() - due))

    def liveness(self) -> Liveness:
        """Return the measurements for liveness checks, at a cost that does not depend on the number of tunnels."""
        loop = self.engine.loop
        age = loop.now().mono - loop.passed_at if loop.passed_at is not None else None
        *_, second_lag, lag = sorted(self._lags)
        failed = loop.failed_passes
        fault = f"internal error: the last {failed} passes of the reconcile loop failed; see the log"
        return Liveness(age, lag, second_lag, self.is_ending, fault if failed else "")

    def snapshot(self) -> Snapshot:
        """Return everything that can be reported about this moment."""
        return self._snapshot_builder.take(self.liveness(), watching=self._watcher is not None and self._watcher.active)

    def detail(self, tunnel_id: str) -> TunnelDetail | None:
        """Return the detail of a tunnel, None if there is no such tunnel."""
        return self._snapshot_builder.detail(tunnel_id)

    def _report(self, planned_from: Observed, plan: Plan, now: Now) -> None:
        """Report what changed in a pass."""
        status = self.engine.status or Status((), ())
        changes = self._change_tracker.update(status, now.wall)
        self._histories.update(changes, now.wall)
        self._change_logger.log_changes(changes, status, now.mono)
        for event in (*map(Event.of, changes), *client_events(plan.actions, planned_from, now.wall)):
            self.events.add(event)
        if self._on_change is not None:
            for change in changes:
                self._on_change(change)
        if self.is_ending and self.engine.is_status_current and not plan.actions:
            self.shutdown.update(self.engine.observed)

    def _audit(self, connection: ClientConnection) -> None:
        audit_log.write(connection, self.config_store.latest.revision if self.config_store.latest else "")
