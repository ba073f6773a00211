"""Runs file calls in daemon threads, each with a deadline.

On an unreachable file system any call can block for ever, even stat. So no file call runs on the event loop, and each
has a deadline:

- Calls for one path run one at a time. Waiting calls take no thread.
- A call that misses its deadline raises PathHangsError. Its thread is abandoned, and until that thread returns, every
  further call for the path fails at once.
- If a call waits for a thread, a new thread is started, up to a limit, so paths that hang do not delay other paths.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from reconciler.system.forks import reset_in_children
from reconciler.system.read_file import read_regular

T = TypeVar("T")

SECONDS = 5.0  # the deadline of a call
_THREADS = 4  # threads in normal operation
_THREADS_MAX = 512  # threads while some hang; each takes about 50 KB
_PATIENCE = 0.2  # seconds that a call waits for a thread before another one is started


class PathHangsError(OSError):
    """The path did not answer in time."""


@dataclass(slots=True, eq=False)
class _Call:
    path: str
    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    started: bool = False


class FileCalls:
    """Threads that run file calls, with a queue for each path. At most `most` threads, including those that hang."""

    def __init__(self, most: int = _THREADS_MAX) -> None:
        self._most = most
        self.reset()
        reset_in_children(self)

    def reset(self) -> None:
        """Forget all threads and calls."""
        self._lock = threading.Lock()
        self._ready: SimpleQueue[_Call] = SimpleQueue()  # the first call of each path's queue that waits for a thread
        self._queues: dict[str, deque[_Call]] = {}
        self._hanging: set[str] = set()
        self._threads = 0
        self._unfinished = 0  # calls that are ready or running

    @property
    def hanging(self) -> int:
        """The number of paths that hang."""
        return len(self._hanging)

    async def ask(self, path: str, function: Callable[[], T], seconds: float = SECONDS) -> T:
        """Return what `function` returns. Raises what it raises, and PathHangsError."""
        call = self._submit(path, function)
        future = asyncio.wrap_future(call.future)
        try:
            done, _ = await asyncio.wait({future}, timeout=min(_PATIENCE, seconds))
            if not done:
                self._add_thread(call)
                done, _ = await asyncio.wait({future}, timeout=max(0.0, seconds - _PATIENCE))
            if not done:
                raise self._give_up(call, seconds)
            return future.result()  # type: ignore[no-any-return]  # the future is this function's
        finally:
            future.cancel()

    def wait(self, path: str, function: Callable[[], T], seconds: float = SECONDS) -> T:
        """Like `ask`, for a thread other than the event loop's."""
        found = self.wait_all([path], lambda _path: function(), seconds)[path]
        if isinstance(found, OSError):
            raise found
        return found

    def wait_all(
        self, paths: Iterable[str], function: Callable[[str], T], seconds: float = SECONDS
    ) -> dict[str, T | OSError]:
        """Return the result of `function` for each path, or its OSError. `seconds` is the deadline of all together."""
        give_up_at = time.monotonic() + seconds
        answers: dict[str, T | OSError] = {}
        calls: list[_Call] = []
        for path in dict.fromkeys(paths):
            try:
                calls.append(self._submit(path, lambda path=path: function(path)))  # type: ignore[misc]  # mypy cannot infer this lambda
            except OSError as error:
                answers[path] = error
        left = wait_for([call.future for call in calls], min(_PATIENCE, seconds)).not_done
        while left and (seconds_left := give_up_at - time.monotonic()) > 0:
            for call in calls:
                self._add_thread(call)
            left = wait_for(left, min(_PATIENCE, seconds_left)).not_done
        for call in calls:
            try:
                answers[call.path] = call.future.result(0)
            except OSError as error:  # TimeoutError is one too
                answers[call.path] = error if call.future.done() else self._give_up(call, seconds)
        return answers

    def _submit(self, path: str, function: Callable[[], object]) -> _Call:
        call = _Call(path, function)
        with self._lock:
            if path in self._hanging:
                raise PathHangsError(errno.ETIMEDOUT, "it does not answer: an earlier call for it still blocks", path)
            queue = self._queues.setdefault(path, deque())
            queue.append(call)
            if len(queue) == 1:
                self._make_ready(call)
        return call

    def _make_ready(self, call: _Call) -> None:
        self._unfinished += 1
        self._ready.put(call)
        if self._threads < min(_THREADS, self._unfinished):
            self._start()

    def _add_thread(self, call: _Call) -> None:
        """Start a thread if the call waits for one."""
        with self._lock:
            queue = self._queues.get(call.path)
            if queue and queue[0] is call and not call.started and self._threads < self._most:
                self._start()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="file", daemon=True).start()
        except RuntimeError:  # the thread limit is reached: an existing thread runs the call, or its deadline passes
            return
        self._threads += 1

    def _give_up(self, call: _Call, seconds: float) -> PathHangsError:
        call.future.cancel()  # no effect on a running call
        with self._lock:
            queue = self._queues.get(call.path)
            if queue and queue[0].started:
                self._hanging.add(call.path)
                return PathHangsError(errno.ETIMEDOUT, f"it did not answer within {seconds:g} s", call.path)
        return PathHangsError(errno.EAGAIN, f"no thread was free for it within {seconds:g} s", call.path)

    def _run(self) -> None:
        while True:
            call = self._ready.get()
            call.started = True
            if call.future.set_running_or_notify_cancel():
                try:
                    result = call.function()
                except BaseException as error:  # noqa: BLE001 - the future passes it to the caller
                    self._finished(call)
                    call.future.set_exception(error)
                else:
                    self._finished(call)
                    call.future.set_result(result)
                    del result
            else:
                self._finished(call)
            del call  # else the result stays in memory until the next call
            with self._lock:
                if self._threads > max(_THREADS, self._unfinished):
                    self._threads -= 1
                    return

    def _finished(self, call: _Call) -> None:
        with self._lock:
            self._unfinished -= 1
            self._hanging.discard(call.path)
            queue = self._queues[call.path]
            queue.popleft()
            if queue:
                self._make_ready(queue[0])
            else:
                del self._queues[call.path]


FILES = FileCalls()


async def read(path: str, limit: int, within: str = "") -> bytes:
    """Return the content of a regular file of at most `limit` bytes, inside `within`. Raises as `read_regular` does."""
    return await FILES.ask(path, lambda: read_regular(path, limit, within))


def read_here(path: str, limit: int) -> bytes:
    """Like `read`, for a thread other than the event loop's."""
    return FILES.wait(path, lambda: read_regular(path, limit))
