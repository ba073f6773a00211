"""The reconcile loop: wait -> plan -> hand to the actuator.

Owns what is asked for at the moment and when to look next. In: `want` and `wake`. Out: actions to the actuator; after
each pass `observer` is told what was asked, what is there and when. A pass is a short synchronous function: nothing
that happens while it runs can get in between looking and acting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from reconciler.core.histogram import Histogram
from reconciler.core.plan import Plan, make_plan
from reconciler.core.ports import Actuator, Clock
from reconciler.core.spec import NOTHING, Desired
from reconciler.core.status import Now, Observed

HEARTBEAT = 5.0  # a pass this often at least: whoever asks whether the loop lives need not wait long for the answer
# No pass takes that long; a process that was stopped in the middle of one (SIGSTOP, a paused container) took an hour.
BREATH_MAX = 1.0  # seconds between two passes, at most, for the others
# Ten thousand tunnels take some 20 ms; a second is a pass that clients notice.
PASS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Observer = Callable[[Desired, Observed, Plan, Now], None]


class SystemClock:
    """The machine's clocks; `mono` is the event loop's."""

    def now(self) -> Now:
        return Now(time.monotonic(), time.time())


class Loop:
    """See the module."""

    def __init__(self, clock: Clock, observer: Observer) -> None:
        self._clock = clock
        self._observer = observer
        self._desired = NOTHING
        self._woken = asyncio.Event()
        self.passes = Histogram(PASS_BOUNDS)  # how long each took
        self.passed_at: float | None = None  # the end of the last one, on the clock's `mono`

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
            wake_at = self._once(actuator).wake_at
            self.passed_at = self._clock.now().mono
            self.passes.observe(self.passed_at - began)
            # Clients' bytes go first: however much happens, passes take a third of the time at most. (At least a turn
            # of the loop: an event that is set already would not let the others run.)
            await asyncio.sleep(min(2 * (self.passed_at - began), BREATH_MAX))

    def _once(self, actuator: Actuator) -> Plan:
        now = self._clock.now()
        actuator.want(self._desired)
        observed = actuator.observe()
        plan = make_plan(self._desired, observed, now)
        for action in plan.actions:
            actuator.apply(action)
        if plan.actions:
            self.wake()  # what was asked may have come true at once
        self._observer(self._desired, observed, plan, now)
        return plan

    async def _wait(self, wake_at: float) -> None:
        pause = min(wake_at - self._clock.now().mono, HEARTBEAT)
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            pass  # the moment that the plan named has come
