"""The pauses of the reconcile loop are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from reconciler.core.actions import Action
from reconciler.core.observed import EMPTY, Now, Observed
from reconciler.core.plan import Plan
from reconciler.core.spec import NOTHING, Desired
from reconciler.runtime.loop import Loop
from unit.build import START

HOUR = 3600.0


class StoppedClock:
    """A clock by which the first pass takes an hour, as if the process was stopped during it."""

    def __init__(self) -> None:
        self._moments = self._pass_by()

    def now(self) -> Now:
        return Now(next(self._moments), START.wall)

    def _pass_by(self) -> Iterator[float]:
        yield from [START.mono] * 3  # the wait, the start of the pass, the observation
        while True:
            yield START.mono + HOUR


class EmptyActuator:
    """An actuator that observes nothing and expects no action."""

    def set_desired(self, desired: Desired) -> None: ...

    def apply(self, action: Action) -> None:
        raise AssertionError(f"unexpected action: {action}")

    def observe(self) -> Observed:
        return EMPTY


async def test_after_a_long_stop_during_a_pass_the_loop_does_not_pause_for_twice_as_long() -> None:
    passes: asyncio.Queue[Desired] = asyncio.Queue()

    def note(desired: Desired, _observed: Observed, _plan: Plan, _now: Now) -> None:
        passes.put_nowait(desired)

    loop = Loop(StoppedClock(), note)
    running = asyncio.create_task(loop.run(EmptyActuator()))
    try:
        for _ in range(2):
            loop.set_desired(NOTHING)
            await asyncio.wait_for(passes.get(), 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
