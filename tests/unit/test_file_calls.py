"""File calls run in threads with a deadline. A path that hangs does not delay other paths."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from reconciler.system.file_calls import FileCalls, PathHangsError

WITHIN = 30.0
SOON = 0.3


class Hanging:
    """A call that blocks until it is released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0

    def __call__(self) -> str:
        self.begun += 1
        self.go.wait(WITHIN)
        return "late"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.go.set()


def threads() -> int:
    return sum(thread.name == "file" for thread in threading.enumerate())


async def until(condition: object) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - threads have no asyncio event
            await asyncio.sleep(0.01)


async def test_a_call_runs_in_a_thread_and_its_error_is_the_callers() -> None:
    calls = FileCalls()
    assert await calls.ask("a", threading.get_ident) != threading.get_ident()
    with pytest.raises(FileNotFoundError):
        await calls.ask("a", lambda: open("/nowhere/at/all"))  # noqa: PTH123, SIM115 - it is the error that counts
    with pytest.raises(ZeroDivisionError):
        await calls.ask("a", lambda: 1 / 0)
    assert await calls.ask("a", lambda: 1) == 1


async def test_a_path_that_hangs_fails_until_it_answers(hanging: Hanging) -> None:
    calls = FileCalls()
    with pytest.raises(PathHangsError, match="did not answer within"):
        await calls.ask("a", hanging, SOON)
    for _ in range(1000):
        with pytest.raises(PathHangsError, match="an earlier call for it still blocks"):
            await calls.ask("a", hanging, WITHIN)
    with pytest.raises(PathHangsError):
        await asyncio.to_thread(calls.wait, "a", hanging, WITHIN)
    assert hanging.begun == 1
    assert calls.hanging == 1
    hanging.go.set()
    await until(lambda: not calls.hanging)
    assert await calls.ask("a", lambda: "well") == "well"


async def test_many_callers_of_a_path_that_hangs_take_one_thread(hanging: Hanging) -> None:
    calls = FileCalls()
    before = threads()
    answers = await asyncio.gather(*(calls.ask("a", hanging, SOON) for _ in range(300)), return_exceptions=True)
    assert all(isinstance(answer, PathHangsError) for answer in answers)
    assert hanging.begun == 1
    assert threads() - before <= 4


async def test_paths_that_hang_do_not_delay_the_others(hanging: Hanging) -> None:
    calls = FileCalls()
    asked = [asyncio.create_task(calls.ask(f"hangs {number}", hanging, WITHIN)) for number in range(200)]
    await until(lambda: hanging.begun >= 4)  # all normal threads are blocked
    well = await asyncio.gather(*(calls.ask(f"well {number}", lambda: "well", WITHIN) for number in range(50)))
    assert well == ["well"] * 50
    assert not any(task.done() for task in asked)
    hanging.go.set()
    assert await asyncio.gather(*asked) == ["late"] * 200


async def test_threads_are_limited_and_end_when_their_call_returns(hanging: Hanging) -> None:
    calls = FileCalls(most=10)
    before = threads()
    asked = [asyncio.create_task(calls.ask(str(number), hanging, 1.0)) for number in range(30)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, PathHangsError) for answer in answers)
    assert threads() - before == 10
    with pytest.raises(PathHangsError, match="no thread was free"):
        await calls.ask("another", lambda: 1, SOON)
    hanging.go.set()
    await until(lambda: threads() - before <= 4)
    assert await calls.ask("another", lambda: 1) == 1


async def test_several_paths_at_once_have_one_deadline_together(hanging: Hanging) -> None:
    calls = FileCalls()

    def look(path: str) -> str:
        return hanging() if path.startswith("hangs") else path

    paths = [f"{kind} {number}" for number in range(40) for kind in ("hangs", "well")]
    async with asyncio.timeout(WITHIN):
        found = await asyncio.to_thread(calls.wait_all, paths, look, 1.0)
    assert [isinstance(found[path], PathHangsError) for path in paths] == [path.startswith("h") for path in paths]


async def test_calls_for_one_path_run_one_at_a_time() -> None:
    calls, order = FileCalls(), list[str]()

    def note(name: str) -> None:
        order.append(f"{name} begins")
        time.sleep(0.01)
        order.append(f"{name} ends")

    await asyncio.gather(*(calls.ask("a", lambda name=name: note(name)) for name in "abc"))  # type: ignore[misc]
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


async def test_after_a_cancelled_call_the_next_one_runs(hanging: Hanging) -> None:
    calls = FileCalls()
    first = asyncio.create_task(calls.ask("a", hanging, WITHIN))
    await until(lambda: hanging.begun == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    next_one = asyncio.create_task(calls.ask("a", lambda: "well", WITHIN))
    hanging.go.set()
    assert await next_one == "well"
