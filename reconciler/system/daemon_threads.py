"""Threads that no end of the program waits for.

A name server that is silent, a file on a server that is gone, a pipe that nobody writes to: each holds its thread for
minutes, or for ever. Those of any other executor are joined when the loop is closed, and again when Python ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(ThreadPoolExecutor):
    """At most so many, started when needed. A ThreadPoolExecutor by name: a loop takes nothing else for its default."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._most = most
        self._started = 0
        self._unfinished = 0
        self._lock = threading.Lock()
        self._work: SimpleQueue[tuple[Future[object], Callable[[], object]]] = SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raises RuntimeError where no thread at all can be started."""
        future: Future[T] = Future()
        with self._lock:
            if self._unfinished >= self._started and self._started < self._most:
                self._start()
            self._unfinished += 1
        self._work.put((future, partial(fn, *args, **kwargs)))  # type: ignore[arg-type]  # whatever it is of
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nobody is waited for."""

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="aside", daemon=True).start()
        except RuntimeError:  # there may be no more of them; those that there are do the work, one thing after another
            if not self._started:
                raise
        else:
            self._started += 1

    def _run(self) -> None:
        while True:
            future, function = self._work.get()
            if future.set_running_or_notify_cancel():  # else nobody waits any more
                try:
                    result = function()
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, function  # they are not to live until the next one comes
            with self._lock:
                self._unfinished -= 1
