"""The turnstile: one thread runs at a time, and a short computation does not wait for a long one."""

from __future__ import annotations

import contextlib
import threading

from reconciler.system.turnstile import Turnstile

WITHIN = 30.0


def test_one_thread_runs_at_a_time_and_all_take_turns() -> None:
    turnstile = Turnstile()
    order: list[int] = []
    running = 0
    all_here = threading.Barrier(4, timeout=WITHIN)

    def compute(name: int) -> None:
        nonlocal running
        all_here.wait()
        with turnstile.turn():
            for _ in range(50):
                running += 1
                assert running == 1
                order.append(name)
                running -= 1
                turnstile.pass_on()

    threads = [threading.Thread(target=compute, args=(name,), daemon=True) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN)
    assert sorted(order) == sorted([0, 1, 2, 3] * 50)


def test_a_short_computation_runs_within_a_long_one() -> None:
    turnstile = Turnstile()
    done = threading.Event()

    def short() -> None:
        with turnstile.turn():
            done.set()

    with turnstile.turn():
        thread = threading.Thread(target=short, daemon=True)
        thread.start()
        while not done.is_set():
            turnstile.pass_on()
    thread.join(WITHIN)
    assert not thread.is_alive()


def test_a_block_that_raises_releases_the_turnstile() -> None:
    turnstile = Turnstile()
    for _ in range(2):
        with contextlib.suppress(KeyError), turnstile.turn():
            raise KeyError
