"""Threads after a fork: the child starts its own."""

from __future__ import annotations

import os
import warnings

import pytest

from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.file_calls import FileCalls

WITHIN = 30.0


@pytest.mark.parametrize("kind", ["executor", "file calls"])
def test_a_child_process_does_not_wait_for_threads_of_its_parent(kind: str) -> None:
    executor, files = DaemonThreads(1), FileCalls()

    def answer() -> int:
        if kind == "executor":
            return executor.submit(lambda: 1).result(WITHIN)
        return files.wait("/", lambda: 1, WITHIN)

    assert answer() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer versions of Python warn of threads
        child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if answer() == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert answer() == 1
