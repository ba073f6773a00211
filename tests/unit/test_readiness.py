"""Descriptors watched without asyncio: what is called, and what the event loop around it goes on to do."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from reconciler.system.event_loop.readiness import DirectSelector, direct_selector, new_event_loop, run, watcher
from support.wait import WITHIN, eventually

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def selector() -> DirectSelector:
    found = direct_selector()
    assert found is not None
    return found


async def called(add: Callable[[Callable[[], object]], object], remove: Callable[[], object]) -> None:
    """Return when the function was called."""
    event = asyncio.Event()
    add(event.set)
    try:
        async with asyncio.timeout(WITHIN):
            await event.wait()
    finally:
        remove()


@pytest.mark.each_loop
async def test_a_reader_and_a_writer_are_called_again_and_again(pair: Pair) -> None:
    one, other = pair
    fd, watching, calls = one.fileno(), watcher(), list[str]()
    watching.add_reader(fd, lambda: calls.append("read"))
    await asyncio.sleep(0)
    assert calls == []
    watching.add_writer(fd, lambda: calls.append("write"))
    await eventually(lambda: calls.count("write") >= 2)
    assert "read" not in calls
    other.send(b"x")
    await eventually(lambda: calls.count("read") >= 2)
    watching.remove_writer(fd)
    calls.clear()
    await eventually(lambda: calls.count("read") >= 2)
    assert "write" not in calls
    one.recv(1)
    await asyncio.sleep(0)  # asyncio has queued a call already
    calls.clear()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls == []
    watching.remove_reader(fd)
    watching.remove_reader(fd)  # does nothing
    watching.remove_writer(fd)


@pytest.mark.each_loop
async def test_a_function_is_replaced(pair: Pair) -> None:
    one, other = pair
    calls = list[str]()
    watcher().add_reader(one.fileno(), lambda: calls.append("first"))
    watcher().add_reader(one.fileno(), lambda: calls.append("second"))
    other.send(b"x")
    await eventually(lambda: len(calls) > 0)
    assert set(calls) == {"second"}
    watcher().remove_reader(one.fileno())


@pytest.mark.each_loop
async def test_the_end_of_a_peer_is_reported_to_a_reader_and_a_writer(pair: Pair) -> None:
    one, other = pair
    fd = one.fileno()
    other.close()
    await called(lambda function: watcher().add_reader(fd, function), lambda: watcher().remove_reader(fd))
    await called(lambda function: watcher().add_writer(fd, function), lambda: watcher().remove_writer(fd))


async def test_a_descriptor_that_another_function_removed_is_not_called() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    calls = list[int]()

    def called_first(number: int) -> None:
        calls.append(number)
        for one, _ in pairs:
            selector().remove_reader(one.fileno())

    for number, (one, other) in enumerate(pairs):
        selector().add_reader(one.fileno(), partial(called_first, number))
        other.send(b"x")
    await eventually(lambda: len(calls) > 0)
    await asyncio.sleep(0)
    assert len(calls) == 1
    for one, other in pairs:
        one.close()
        other.close()


async def test_what_a_function_raises_reaches_the_exception_handler_of_the_loop(pair: Pair) -> None:
    one, other = pair
    reported = list[BaseException]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    fault = ValueError("a bug")

    def fail() -> None:
        one.recv(1)
        raise fault

    selector().add_reader(one.fileno(), fail)
    other.send(b"x")
    await eventually(lambda: len(reported) > 0)
    assert reported == [fault]
    selector().remove_reader(one.fileno())


async def test_a_descriptor_that_is_always_ready_does_not_stop_the_loop(pair: Pair) -> None:
    """Timers, other threads, asyncio's own readers and signals get their turns."""
    one, _ = pair
    loop = asyncio.get_running_loop()
    selector().add_writer(one.fileno(), lambda: None)
    try:
        async with asyncio.timeout(WITHIN):
            await asyncio.sleep(0.01)
            assert await asyncio.to_thread(lambda: 7) == 7
            reader, writer = os.pipe()
            os.write(writer, b"x")
            readable = asyncio.Event()
            loop.add_reader(reader, readable.set)
            await readable.wait()
            loop.remove_reader(reader)
            os.close(reader)
            os.close(writer)
            signalled = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, signalled.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            await signalled.wait()
            loop.remove_signal_handler(signal.SIGUSR1)
    finally:
        selector().remove_writer(one.fileno())


async def test_a_function_may_give_the_loop_work(pair: Pair) -> None:
    one, other = pair
    loop, order = asyncio.get_running_loop(), list[str]()
    late: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        one.recv(1)
        loop.call_soon(order.append, "soon")
        loop.call_later(0.001, lambda: late.set_result(None))

    selector().add_reader(one.fileno(), readable)
    other.send(b"x")
    async with asyncio.timeout(WITHIN):
        await late
    assert order == ["soon"]
    selector().remove_reader(one.fileno())


def test_a_function_may_stop_the_loop(pair: Pair) -> None:
    one, other = pair
    loop = new_event_loop()
    loop.call_soon(lambda: selector().add_reader(one.fileno(), loop.stop))
    other.send(b"x")
    stopped = threading.Thread(target=loop.run_forever, daemon=True)
    stopped.start()
    stopped.join(WITHIN)
    assert not stopped.is_alive()
    loop.close()


def test_a_closed_descriptor_that_was_not_removed_is_an_error_when_its_number_is_watched_again() -> None:
    found = DirectSelector()
    one, other = socket.socketpair()
    with one, other:
        fd = one.fileno()
        found.add_reader(fd, lambda: None)
        copy = os.dup(other.fileno())
        os.close(fd)
        os.dup2(copy, fd)
        os.close(copy)
        with pytest.raises(FileNotFoundError):
            found.add_reader(fd, lambda: None)
    found.close()


def test_removing_after_the_end_of_the_loop_does_nothing(pair: Pair) -> None:
    found = DirectSelector()
    found.add_reader(pair[0].fileno(), lambda: None)
    found.close()
    found.remove_reader(pair[0].fileno())


def test_a_loop_of_asyncio_watches_by_itself() -> None:
    async def main() -> tuple[Any, bool]:
        return direct_selector(), watcher() is asyncio.get_running_loop()

    assert asyncio.run(main()) == (None, True)


def test_run_returns_the_result_and_closes_the_loop() -> None:
    async def main() -> asyncio.AbstractEventLoop:
        assert watcher() is direct_selector()
        return asyncio.get_running_loop()

    assert run(main()).is_closed()
