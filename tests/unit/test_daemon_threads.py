"""The executor of daemon threads: its limit, and its behaviour when no thread can be started."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from reconciler.system.daemon_threads import DaemonThreads

WITHIN = 30.0


def test_calls_beyond_the_thread_limit_wait_for_a_thread() -> None:
    threads, gate, together = DaemonThreads(2), threading.Event(), threading.Barrier(3)

    def work() -> str:
        together.wait(WITHIN)
        gate.wait(WITHIN)
        return threading.current_thread().name

    first = [threads.submit(work) for _ in range(2)]
    together.wait(WITHIN)  # both threads run
    late = threads.submit(threading.get_ident)
    assert not wait([late], 0.05).done
    gate.set()
    assert [one.result(WITHIN) for one in first] == ["daemon"] * 2
    assert late.result(WITHIN)


def test_existing_threads_do_the_work_while_no_new_one_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, gate = DaemonThreads(2), threading.Event()

    def cannot(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", cannot)
        for _ in range(5):
            with pytest.raises(RuntimeError):
                threads.submit(int)
    assert threads.submit(int).result(WITHIN) == 0
    held = threads.submit(gate.wait, WITHIN)
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", cannot)
        queued = threads.submit(int)
    assert not wait([queued], 0.05).done
    assert threads.submit(int).result(WITHIN) == 0, "a second thread is started"
    assert queued.result(WITHIN) == 0
    gate.set()
    assert held.result(WITHIN)


def test_an_error_is_raised_to_the_caller() -> None:
    threads = DaemonThreads(1)
    with pytest.raises(ValueError, match="invalid literal"):
        threads.submit(int, "x").result(WITHIN)
    assert threads.submit(int, "1").result(WITHIN) == 1
