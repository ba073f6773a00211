"""One timer for many items: each that stays is called once, in order, and one that is removed is not."""

from __future__ import annotations

import asyncio

from reconciler.system.event_loop.deadlines import Deadlines
from support.wait import eventually


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_items_are_called_in_order_but_not_those_that_were_removed() -> None:
    calls = list[int]()
    deadlines = Deadlines(0.01, calls.append)
    for item in range(6):
        deadlines.add(item, now())
    deadlines.remove(0)
    deadlines.remove(3)
    deadlines.remove(9)  # does nothing
    await eventually(lambda: len(calls) == 4)
    assert calls == [1, 2, 4, 5]


async def test_an_item_is_not_called_before_its_time() -> None:
    late = list[float]()
    began: dict[int, float] = {}
    deadlines = Deadlines[int](0.02, lambda item: late.append(now() - began[item]))
    for item in range(5):
        began[item] = now()
        deadlines.add(item, began[item])
        await asyncio.sleep(0.005)
    await eventually(lambda: len(late) == 5)
    assert min(late) >= 0.02 - 0.001  # the resolution of the loop's clock


async def test_items_may_be_added_after_all_were_removed() -> None:
    calls = list[str]()
    deadlines = Deadlines(0.01, calls.append)
    deadlines.add("first", now())
    deadlines.remove("first")
    await asyncio.sleep(0.03)
    deadlines.add("second", now())
    await eventually(lambda: calls == ["second"])


async def test_what_one_call_raises_does_not_keep_the_others() -> None:
    calls, reported = list[int](), list[BaseException]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))

    def over(item: int) -> None:
        calls.append(item)
        if item == 0:
            raise ValueError("a bug")

    deadlines = Deadlines(0.01, over)
    for item in range(3):
        deadlines.add(item, now())
    await eventually(lambda: len(calls) == 3)
    assert [str(error) for error in reported] == ["a bug"]
