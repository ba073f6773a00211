"""The composition root: file -> desired -> loop -> fleet, and an orderly end.

Owns the process's tasks. In: the configuration of the command line, and what people ask of the running process. Out:
changes to whoever listens, snapshots, and the exit code. A task that fails never ends another: the watcher is started
again. An action or a pass of the loop that raises is a fault of this program; the loop logs it, goes on and tries
again. Should the loop itself end all the same, that is reported and ends the process, so that its supervisor starts it
afresh.
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
from reconciler.probes import PROBES
from reconciler.report.change_log import ChangeLogger
from reconciler.report.changes import Change, ChangeTracker
from reconciler.report.events import Event, Events, of_clients
from reconciler.report.snapshot import Pulse, Snapshot
from reconciler.runtime import audit_log
from reconciler.runtime.config_store import ConfigStore
from reconciler.runtime.loop import Loop, SystemClock
from reconciler.runtime.probe_restart_policy import ProbeRestartPolicy
from reconciler.runtime.shutdown import Shutdown
from reconciler.runtime.snapshot_builder import SnapshotBuilder
from reconciler.ssh.actuator import SshActuator
from reconciler.ssh.relay.connection_registry import ConnectionInfo
from reconciler.system import descriptors
from reconciler.system.fault_log import FaultLog

log = logging.getLogger(__name__)

RESTART_AFTER = 1.0  # seconds before a failed helper task is started again
PULSE = 0.5  # how often the event loop's lag is measured,
PULSES_KEPT = 30  # and of how many the worst is told: more than a scrape interval's


class App:
    """See the module. `on_change` hears of every change, after the log has."""

    def __init__(
        self, config: Config, *, on_change: Callable[[Change], None] | None = None, shard: Shard | None = None
    ) -> None:
        self.config = config
        self._on_change = on_change
        self._journal = ChangeTracker()
        self._change_logger = ChangeLogger()
        self.events = Events()
        self.ending = Shutdown(self.reload)
        self._passed = asyncio.Event()
        self._over = False
        self._reloads: set[asyncio.Task[Loaded]] = set()
        self.loads = ConfigStore(config, self.events.tell)
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
        self._snapshot_builder = SnapshotBuilder(self.loop, self.actuator, self.loads, self._journal)
        self._watcher: Watcher | None = None
        self._lags = deque([0.0, 0.0], maxlen=PULSES_KEPT)
        self._probe_restart_policy = ProbeRestartPolicy()
        self._asked: Desired = NOTHING  # of the last pass
        self._removed: Mapping[str, TunnelSpec] = {}  # whose clients may still be there
        self._settled_for: Desired | None = None
        self._seen: Observed = EMPTY
        self.judgement: Status | None = None

    # --- life --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Converge until told to end. Returns the exit code: 2 if what was read at the start is not fit to start with.

        A bad file among good ones is left out, unless the options are strict.
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
            self._over = True
            self._passed.set()

    async def _converge(self) -> int:
        helpers = [
            asyncio.create_task(self._forever(self._watch, "the watcher"), name="watcher"),
            asyncio.create_task(self._forever(self.actuator.maintain, "the tender"), name="tender"),
            asyncio.create_task(self._forever(self._beat, "the pulse"), name="pulse"),
        ]
        reconciling = asyncio.create_task(self.loop.run(self.actuator), name="reconcile loop")
        ending = asyncio.create_task(self._end(), name="end")
        try:
            await asyncio.wait({reconciling, ending}, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                log.critical("the reconcile loop failed; please report this", exc_info=reconciling.exception())
                return 1
            return 0
        finally:
            for task in (*helpers, reconciling, ending):
                task.cancel()
            await asyncio.gather(*helpers, reconciling, ending, return_exceptions=True)

    def end(self) -> None:
        """Stop accepting, let the clients drain, then return from `run`. Called again: end at once."""
        self.ending.ask()

    def reload(self) -> None:
        """Read the files again, as if they had changed."""
        task = asyncio.get_running_loop().create_task(self.load(asked=True), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _first_load(self) -> Loaded | None:
        """What is read at the start. None if it is told to end before: a pipe may have no end, a disk may hang."""
        loading = asyncio.create_task(self.load(), name="first load")
        ending = asyncio.create_task(self.ending.asked(), name="end before the start")
        try:
            await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
            return loading.result() if loading.done() else None
        finally:
            for task in (loading, ending):
                task.cancel()
            await asyncio.gather(loading, ending, return_exceptions=True)

    # --- tasks -------------------------------------------------------------------------------------------------

    async def _forever(self, work: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - supervision: it is logged, and the task is started again
                self._fault_log.tell(f"{name} failed, and is started again", error)
            await asyncio.sleep(RESTART_AFTER)

    def unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's exception handler: what a callback raised ended that callback, and nothing else."""
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            # The message may hold addresses of objects; its first words are the same each time.
            words = str(context.get("message", "")).split()[:3]
            self._fault_log.tell(f"{' '.join(words)} ..." if words else "a callback raised", error)
        else:
            loop.default_exception_handler(context)

    async def _watch(self) -> None:
        async with Watcher(self.config.paths) as watcher:
            self._watcher = watcher
            loaded = await self.load()  # what changed between the first load and the begin of the watch
            while True:
                await watcher.watch_also(loaded.watched)
                change = await anext(watcher)
                if change.config:
                    loaded = await self.load()
                await self.actuator.files_changed()  # a key or a known hosts file may be what a target waits for

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PULSE
            await asyncio.sleep(PULSE)
            self._lags.append(max(0.0, loop.time() - due))
            if over := self._overlay.over_by(time.time()):
                self.resume(over, "its pause is over")

    async def _end(self) -> None:
        await self.ending.asked()
        self.loop.want(NOTHING)
        await self.ending.over()

    # --- what is asked -----------------------------------------------------------------------------------------

    async def load(self, *, asked: bool = False) -> Loaded:
        """Read the files; what is valid is asked for from now on. Each problem is told when it is new."""
        loaded = await self.loads.load(asked=asked)
        if self._watcher is not None:
            self._watcher.look_again(loaded.unread)  # the cause may be the machine's, and over soon
        self._want()
        return loaded

    def over(self, desired: Desired) -> Desired:
        """What files that say this would mean for this process, as it is asked to be."""
        return self._overlay.over(desired).sharing(self.loop.desired)

    def _want(self) -> None:
        if self.loads.latest is not None and not self.is_ending:
            self.loop.want(self._overlay.over(self.loads.latest.desired))

    def restart(self, targets: Iterable[str], why: str) -> None:
        """Give targets new connections, by make before break."""
        for target in targets:
            self._overlay.restart(target)
            self._tell(f"target {target}", "restarted", why)
        self._want()

    def pause(self, tunnels: Iterable[str], until: float | None, why: str) -> None:
        """Turn tunnels off until then (Unix time), or until they are resumed; no reload changes that."""
        for tunnel in tunnels:
            self._overlay.pause([tunnel], until)
            self._tell(f"tunnel {tunnel}", "paused", why)
        self._want()

    def resume(self, tunnels: Iterable[str], why: str) -> None:
        """Turn them on again."""
        for tunnel in tunnels:
            self._overlay.resume([tunnel])
            self._tell(f"tunnel {tunnel}", "resumed", why)
        self._want()

    def _tell(self, subject: str, what: str, why: str) -> None:
        kind, _, name = subject.partition(" ")
        fields = {"target": name.partition("/")[0], "tunnel": name if kind == "tunnel" else None}
        log.info("%s is %s: %s", subject, what, why, extra=fields)
        self.events.tell(Event(time.time(), subject, what, message=why))

    def _failing(self, tunnel: TunnelSpec) -> None:
        """A probe that may replace the connection fails."""
        if self._probe_restart_policy.is_due(tunnel, self.actuator.meters, self.loop.now().mono):
            self.restart([tunnel.target], f"the probe of tunnel {tunnel.id} fails")

    # --- what is there -----------------------------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        """It was told to end."""
        return self.ending.is_asked

    @property
    def loaded(self) -> Loaded | None:
        """The latest content of the files."""
        return self.loads.latest

    def pulse(self) -> Pulse:
        """Signs of life, without looking at all tunnels."""
        passed = self.loop.passed_at
        age = self.loop.now().mono - passed if passed is not None else None
        *_, again, lag = sorted(self._lags)
        broken = self.loop.broken_passes
        fault = f"a fault of this program: the last {broken} passes of the reconcile loop failed; see the log"
        return Pulse(age, lag, again, self.is_ending, fault if broken else "")

    def snapshot(self) -> Snapshot:
        """Everything that can be told about this moment."""
        return self._snapshot_builder.take(
            self.judgement or Status((), ()),
            self._seen,
            self.pulse(),
            settled=self.settled,
            watching=self._watcher is not None and self._watcher.active,
        )

    @property
    def settled(self) -> bool:
        """Nothing is left to do for what is asked now but to wait, or to try again."""
        return self._settled_for is self.loop.desired

    @property
    def judged(self) -> bool:
        """The judgement is about what is asked now, not about what was asked before an edit."""
        return self._asked is self.loop.desired

    async def passed(self) -> bool:
        """Return after the next pass of the loop. False: there will be none."""
        await self._passed.wait()
        return not self._over

    def _action_failed(self, subject: str) -> None:
        """An action about this target or tunnel raised."""
        counters = self.actuator.counters
        failures = counters.failures(subject) if "/" in subject else counters.target(subject).failures
        failures[Reason.INTERNAL] += 1

    def _observed(self, desired: Desired, planned_from: Observed, plan: Plan, now: Now) -> None:
        try:
            self._report(desired, planned_from, plan, now)
        finally:
            self._passed.set()
            self._passed = asyncio.Event()

    def _report(self, desired: Desired, planned_from: Observed, plan: Plan, now: Now) -> None:
        # A socket that changes hands has its new owner before anybody hears of it, and so have its clients: nothing is
        # down while two tunnels swap ports or one gets another name.
        handed_over = any(isinstance(action, Assign) for action in plan.actions)
        observed = planned_from
        if handed_over:
            observed = replace(self.actuator.observe(), faults=planned_from.faults)
        self._note_removed(desired, observed)
        broken = self.loads.latest.broken if self.loads.latest else {}
        gone = "the process is ending" if self.is_ending else "removed"
        self.judgement = make_status(desired, observed, now, broken, self._removed.values(), gone)
        self._seen = observed
        self._settled_for = desired if not plan.actions and is_settled(desired, observed) else None
        changes = self._journal.note(self.judgement, now.wall)
        self._change_logger.tell(changes, self.judgement, now.mono)
        for event in (*map(Event.of, changes), *of_clients(plan.actions, planned_from, now.wall)):
            self.events.tell(event)
        if self._on_change is not None:
            for change in changes:
                self._on_change(change)
        if self.is_ending and desired is self.loop.desired and not plan.actions:
            self.ending.look(observed)

    def _note_removed(self, desired: Desired, observed: Observed) -> None:
        """Remember the tunnels that are asked for no more while they have clients."""
        if desired is self._asked and not self._removed:
            return
        busy = {flow.key.tunnel for flow in observed.flows}
        before = (*self._removed.values(), *self._asked.tunnels.values())
        self._removed = {gone.id: gone for gone in before if gone.id in busy and gone.id not in desired.tunnels}
        self._asked = desired

    def _cut(self, tunnel: TunnelSpec, said: str) -> None:
        self.events.tell(Event(time.time(), f"tunnel {tunnel.id}", "cut", message=said))

    def _audit(self, visit: ConnectionInfo, why: str, seconds: float) -> None:
        audit_log.write(visit, why, seconds, self.loads.latest.revision if self.loads.latest else "")
