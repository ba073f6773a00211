"""The reconcile loop: wait -> plan -> hand to the actuator.

Owns what is asked for at the moment and when to look next. In: `want` and `wake`. Out: actions to the actuator; after
each pass `observer` is told what was asked, what is there and when. A pass is a short synchronous function: nothing
that happens while it runs can get in between looking and acting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from reconciler.core.actions import Action
from reconciler.core.faults import Faults
from reconciler.core.histogram import Histogram
from reconciler.core.interfaces import Actuator, Clock
from reconciler.core.observed import Now, Observed
from reconciler.core.plan import Plan, make_plan
from reconciler.core.spec import NOTHING, Desired
from reconciler.system.fault_log import FaultLog

HEARTBEAT = 5.0  # a pass this often at least: whoever asks whether the loop lives need not wait long for the answer
# No pass takes that long; a process that was stopped in the middle of one (SIGSTOP, a paused container) took an hour.
BREATH_MAX = 1.0  # seconds between two passes, at most, for the others
BROKEN_REST, BROKEN_REST_MAX = 0.125, 5.0  # seconds after a pass that raised: doubled each time, at most
# Ten thousand tunnels take some 20 ms; a second is a pass that clients notice.
PASS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Observer = Callable[[Desired, Observed, Plan, Now], None]


class SystemClock:
    """The machine's clocks; `mono` is the event loop's."""

    def now(self) -> Now:
        return Now(time.monotonic(), time.time())


class Loop:
    """The loop and what it aims at. `failed` hears of each action that raised: the target or tunnel it is about.

    Nothing that raises in a pass ends the loop. An action that does ends there and is tried again later, while the
    others are carried out. A pass that does (looking at the world, planning) leaves everything as it is, and is made
    again later.
    """

    def __init__(
        self,
        clock: Clock,
        observer: Observer,
        *,
        failed: Callable[[str], None] = lambda _subject: None,
        fault_log: FaultLog | None = None,
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._failed = failed
        self._fault_log = fault_log or FaultLog()
        self._faults = Faults()
        self._desired = NOTHING
        self._woken = asyncio.Event()
        self.passes = Histogram(PASS_BOUNDS)  # how long each took
        self.passed_at: float | None = None  # the end of the last one, on the clock's `mono`
        self.broken_passes = 0  # in a row, that raised

    @property
    def desired(self) -> Desired:
        return self._desired

    def now(self) -> Now:
        return self._clock.now()

    def want(self, desired: Desired) -> None:
        """From now on, this is asked for."""
        self._desired = desired.sharing(self._desired)
        self.wake()

    def wake(self) -> None:
        """Something changed: look again."""
        self._woken.set()

    async def run(self, actuator: Actuator) -> None:
        """Keep the actuator's world as asked, until cancelled."""
        wake_at = 0.0
        while True:
            await self._wait(wake_at)
            self._woken.clear()
            began = self._clock.now().mono
            rest = 0.0
            try:
                wake_at = self._once(actuator).wake_at
                self.broken_passes = 0
            except Exception as error:  # noqa: BLE001 - the tunnels that are there must not end with a pass
                self.broken_passes += 1
                self._tell("the reconcile loop could not look at what is there, or plan", error, "")
                wake_at, rest = 0.0, min(BROKEN_REST * 2 ** min(self.broken_passes, 16), BROKEN_REST_MAX)
            self.passed_at = self._clock.now().mono
            self.passes.observe(self.passed_at - began)
            # Clients' bytes go first: however much happens, passes take a third of the time at most. (At least a turn
            # of the loop: an event that is set already would not let the others run.)
            await asyncio.sleep(max(rest, min(2 * (self.passed_at - began), BREATH_MAX)))

    def _once(self, actuator: Actuator) -> Plan:
        now = self._clock.now()
        actuator.set_desired(self._desired)
        observed = actuator.observe()
        plan = make_plan(self._desired, observed, now)
        done = tuple(action for action in plan.actions if self._carry_out(actuator, action, observed, now))
        self._faults.keep(plan.actions)
        if done:
            self.wake()  # what was asked may have come true at once
        plan = Plan(done, min(plan.wake_at, self._faults.next_try))
        observed = replace(observed, faults={**observed.faults, **self._faults.by_subject()})
        try:
            self._observer(self._desired, observed, plan, now)
        except Exception as error:  # noqa: BLE001 - a report must not keep the plan from being carried out
            self._tell("what a pass of the reconcile loop found could not be reported", error, "")
        return plan

    def _carry_out(self, actuator: Actuator, action: Action, observed: Observed, now: Now) -> bool:
        """Return True if the action was carried out, False if it raised, or did of late."""
        if not self._faults.is_due(action, now.mono):
            return False
        try:
            actuator.apply(action)
        except Exception as error:  # noqa: BLE001 - it ends this action, and no other
            subject = self._faults.failed(action, observed, error, now.mono)
            self._tell(f"{type(action).__name__} ({action.why}) could not be carried out", error, subject)
            return False
        self._faults.succeeded(action)
        return True

    def _tell(self, what: str, error: Exception, subject: str) -> None:
        self._fault_log.tell(what, error, subject=subject)
        if subject:
            self._failed(subject)

    async def _wait(self, wake_at: float) -> None:
        pause = min(wake_at - self._clock.now().mono, HEARTBEAT)
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            pass  # the moment that the plan named has come
