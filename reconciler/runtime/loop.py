"""The reconcile loop: wait, observe, plan, hand the actions to the actuator.

Owns the current desired state and the time of the next pass. Input: `set_desired` and `wake`. Output: actions to the
actuator. After each pass, `observer` is called with the desired state, the observed state, the plan and the time. A
pass is a short synchronous function, so that no other task runs between observing and acting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from reconciler.core.actions import Action, subject_of
from reconciler.core.faults import Faults
from reconciler.core.histogram import Histogram
from reconciler.core.interfaces import Actuator, Clock
from reconciler.core.observed import Now, Observed
from reconciler.core.plan import Plan, make_plan
from reconciler.core.spec import NOTHING, Desired
from reconciler.core.subject import Subject
from reconciler.system.fault_log import FaultLog

PASS_INTERVAL_MAX = 5.0  # seconds between two passes at most: liveness checks rely on it
# Upper bound of the pause after a pass, in seconds. The pause is twice as long as the pass, but the measured time of a
# pass includes the time for which the process was stopped (SIGSTOP, a paused container).
PAUSE_MAX = 1.0
# Seconds to wait after passes that raised: RETRY_MIN, doubled with each of them in a row (the first wait is 0.25 s), at
# most RETRY_MAX.
RETRY_MIN, RETRY_MAX = 0.125, 5.0
# The bounds of the histogram of pass durations, in seconds. A pass over ten thousand tunnels takes about 20 ms. Clients
# notice a pass of a second.
PASS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Observer = Callable[[Desired, Observed, Plan, Now], None]


class SystemClock:
    """The clocks of the operating system. `mono` is the clock of the event loop."""

    def now(self) -> Now:
        return Now(time.monotonic(), time.time())


class Loop:
    """The reconcile loop. `failed` is called with the target or tunnel of each action that raised.

    No exception in a pass ends the loop. An action that raises is retried later, and the other actions are carried
    out. A pass in which observing or planning raises changes nothing and is repeated later.
    """

    def __init__(
        self,
        clock: Clock,
        observer: Observer,
        *,
        failed: Callable[[Subject], None] = lambda _subject: None,
        fault_log: FaultLog | None = None,
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._failed = failed
        self._fault_log = fault_log or FaultLog()
        self._faults = Faults()
        self._desired = NOTHING
        self._woken = asyncio.Event()
        self.passes = Histogram(PASS_BOUNDS)  # their durations
        self.passed_at: float | None = None  # when the last one ended, monotonic
        self.failed_passes = 0  # how many raised in a row

    @property
    def desired(self) -> Desired:
        return self._desired

    def now(self) -> Now:
        return self._clock.now()

    def set_desired(self, desired: Desired) -> None:
        """Reconcile towards this state from now on."""
        self._desired = desired.sharing(self._desired)
        self.wake()

    def wake(self) -> None:
        """Run a pass soon: something changed."""
        self._woken.set()

    async def run(self, actuator: Actuator) -> None:
        """Keep the observed state equal to the desired state until cancelled."""
        wake_at = 0.0
        while True:
            await self._wait(wake_at)
            self._woken.clear()
            began = self._clock.now().mono
            retry_delay = 0.0
            try:
                wake_at = self._once(actuator).wake_at
                self.failed_passes = 0
            except Exception as error:  # noqa: BLE001 - live tunnels must survive a failed pass
                self.failed_passes += 1
                self._fault_log.tell("the reconcile loop could not observe or plan", error)
                wake_at, retry_delay = 0.0, min(RETRY_MIN * 2 ** min(self.failed_passes, 16), RETRY_MAX)
            self.passed_at = self._clock.now().mono
            self.passes.observe(self.passed_at - began)
            # Passes take at most a third of the time, the relays get the rest. A sleep of 0 still yields to other
            # tasks, which waiting for an event that is already set would not do.
            await asyncio.sleep(max(retry_delay, min(2 * (self.passed_at - began), PAUSE_MAX)))

    def _once(self, actuator: Actuator) -> Plan:
        now = self._clock.now()
        actuator.set_desired(self._desired)
        observed = actuator.observe()
        plan = make_plan(self._desired, observed, now)
        done = tuple(action for action in plan.actions if self._carry_out(actuator, action, now))
        self._faults.keep(plan.actions)
        if done:
            self.wake()  # an action may have taken effect immediately
        plan = Plan(done, min(plan.wake_at, self._faults.next_try))
        observed = replace(observed, faults={**observed.faults, **self._faults.by_subject()})
        try:
            self._observer(self._desired, observed, plan, now)
        except Exception as error:  # noqa: BLE001 - a failed report must not stop the loop
            self._fault_log.tell("the result of a reconcile pass could not be reported", error)
        return plan

    def _carry_out(self, actuator: Actuator, action: Action, now: Now) -> bool:
        """Return True if the action was carried out, False if it raised or waits for its retry."""
        if not self._faults.is_due(action, now.mono):
            return False
        try:
            actuator.apply(action)
        except Exception as error:  # noqa: BLE001 - it ends only this action
            self._faults.failed(action, error, now.mono)
            subject = subject_of(action)
            what = f"{type(action).__name__} ({action.why}) could not be carried out"
            self._fault_log.tell(what, error, subject=subject)
            self._failed(subject)
            return False
        self._faults.succeeded(action)
        return True

    async def _wait(self, wake_at: float) -> None:
        timeout = min(wake_at - self._clock.now().mono, PASS_INTERVAL_MAX)
        try:
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        except TimeoutError:
            pass  # the time that the plan asked for
