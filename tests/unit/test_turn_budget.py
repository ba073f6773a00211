"""The work of all links in one turn of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.ssh.internals.turn_budget import QUANTUM, TURN, TurnBudget


async def test_links_share_one_turn_and_each_may_work_for_a_short_time() -> None:
    budget, now, longest = TurnBudget(), 10.0, []
    for _ in range(100):  # each uses all that it may
        until = budget.begin(now)
        longest.append(until - now)
        budget.end(until)
        now = until
    assert longest == pytest.approx([TURN] + [QUANTUM] * 99)


async def test_the_next_turn_has_the_whole_time() -> None:
    budget = TurnBudget()
    budget.end(budget.begin(10.0))
    await asyncio.sleep(0)
    assert budget.begin(10.0 + TURN) == pytest.approx(10.0 + 2 * TURN)


async def test_time_without_work_does_not_count() -> None:
    budget = TurnBudget()
    budget.begin(10.0)
    budget.end(10.0 + TURN / 4)
    assert budget.begin(10.0 + TURN / 2) == pytest.approx(10.0 + 1.5 * TURN)
