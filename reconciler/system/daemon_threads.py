"""An executor of daemon threads: neither the event loop nor the interpreter joins them at exit.

A silent name server, a file on an unreachable server or a pipe without a writer blocks its thread for minutes or for
ever. The threads of any other executor are joined when the loop closes, and again when Python exits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from reconciler.system.forks import reset_in_children

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(ThreadPoolExecutor):
    """An executor with at most `max_workers` daemon threads, started on demand.

    It derives from ThreadPoolExecutor because a loop accepts no other class as its default executor.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._max = max_workers
        self.reset()
        reset_in_children(self)

    def reset(self) -> None:
        """Forget all threads and calls."""
        self._started = 0
        self._unfinished = 0
        self._lock = threading.Lock()
        self._work: SimpleQueue[tuple[Future[object], Callable[[], object]]] = SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call and return its future. Raises RuntimeError if not even one thread can be started."""
        future: Future[T] = Future()
        with self._lock:
            if self._unfinished >= self._started and self._started < self._max:
                self._start()
            self._unfinished += 1
        self._work.put((future, partial(fn, *args, **kwargs)))  # type: ignore[arg-type]  # of any type
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return at once: no thread is joined."""

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="daemon", daemon=True).start()
        except RuntimeError:  # the thread limit is reached: the existing threads do the work
            if not self._started:
                raise
        else:
            self._started += 1

    def _run(self) -> None:
        while True:
            future, function = self._work.get()
            if future.set_running_or_notify_cancel():  # False: the caller cancelled it
                try:
                    result = function()
                except BaseException as error:  # noqa: BLE001 - the future passes it to the caller
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, function  # else both stay alive until the next call
            with self._lock:
                self._unfinished -= 1
