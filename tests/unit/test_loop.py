"""The loop's rests: never longer than its clients can wait."""

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


class Stopped:
    """A clock by which the first pass takes an hour, as for a process that was stopped in the middle of it."""

    def __init__(self) -> None:
        self._moments = self._pass_by()

    def now(self) -> Now:
        return Now(next(self._moments), START.wall)

    def _pass_by(self) -> Iterator[float]:
        yield from [START.mono] * 3  # the wait, the pass's beginning, its look at the world
        while True:
            yield START.mono + HOUR


class Nothing:
    """A world without anything in it."""

    def set_desired(self, desired: Desired) -> None: ...

    def apply(self, action: Action) -> None:
        raise AssertionError(f"nothing is asked for, and yet: {action}")

    def observe(self) -> Observed:
        return EMPTY


async def test_a_process_stopped_during_a_pass_does_not_rest_for_twice_that_time() -> None:
    passes: asyncio.Queue[Desired] = asyncio.Queue()

    def note(desired: Desired, _observed: Observed, _plan: Plan, _now: Now) -> None:
        passes.put_nowait(desired)

    loop = Loop(Stopped(), note)
    running = asyncio.create_task(loop.run(Nothing()))
    try:
        for _ in range(2):
            loop.want(NOTHING)
            await asyncio.wait_for(passes.get(), 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
