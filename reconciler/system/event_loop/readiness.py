"""Calls functions when descriptors are readable or writable, at less cost than an event loop's `add_reader`.

For each `add_reader` asyncio makes a handle and a selector key, and it runs each callback through a queue and a
context. For a client that connects, sends a request and leaves, this was a tenth of the work. A `DirectSelector` is a
selector for asyncio's own loop. Beside what the loop registers, it watches descriptors itself, and calls their
functions while the loop waits for events.

`watcher` returns the selector of the running loop, or the loop itself if it has another one: both have the same
methods. So a program with a loop of its own needs nothing, and pays asyncio's price.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from time import monotonic
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

AT_ONCE = 256  # most descriptors that one call of epoll reports

_HAS_EPOLL = hasattr(select, "epoll")  # Linux
_T = TypeVar("_T")

Callback = Callable[[], object]


class DescriptorWatcher(Protocol):
    """Calls a function in each turn of the loop in which a descriptor is ready. Remove it before closing that."""

    def add_reader(self, fd: int, callback: Callback, /) -> object:
        """Call it while there are bytes to read, EOF or an error. Replaces the function before."""

    def remove_reader(self, fd: int, /) -> object:
        """Do nothing if there is none."""

    def add_writer(self, fd: int, callback: Callback, /) -> object:
        """Call it while there is room to write, or an error. Replaces the function before."""

    def remove_writer(self, fd: int, /) -> object:
        """Do nothing if there is none."""


class DirectSelector(selectors.DefaultSelector):
    """A selector and a watcher. Linux only.

    An epoll object of its own watches the descriptors that are not the loop's, and the epoll object of the base class.

    loop_has_work  set by the loop when a callback has given it something to do
    on_error       called with what a callback raises
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop_has_work = False
        self.on_error: Callable[[Exception], object] = _ignored
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._of_loop = super().fileno()
        self._epoll = select.epoll()
        self._epoll.register(self._of_loop, select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call the functions of the descriptors that are ready. Return what is ready for the loop.

        It goes on until the loop has something to do: a turn of the loop costs as much as several functions. All of
        them are called before, at most `AT_ONCE` descriptors, so none of them waits for long.
        """
        self.loop_has_work = False
        end = None if timeout is None else monotonic() + timeout
        while True:
            ready = self._epoll.poll(timeout, AT_ONCE)
            keys = self._call(ready)
            if keys or self.loop_has_work or not ready:
                return keys
            if end is not None and (timeout := end - monotonic()) <= 0:
                return keys

    def _call(self, ready: Sequence[tuple[int, int]]) -> list[tuple[selectors.SelectorKey, int]]:
        keys: list[tuple[selectors.SelectorKey, int]] = []
        readers, writers = self._readers, self._writers
        for fd, events in ready:
            if fd == self._of_loop:
                keys = super().select(0)
                continue
            try:
                # Looked up one by one: a callback may remove others. An error makes a descriptor ready for both.
                if events & ~select.EPOLLOUT and (callback := readers.get(fd)) is not None:
                    callback()
                if events & ~select.EPOLLIN and (callback := writers.get(fd)) is not None:
                    callback()
            except Exception as error:  # noqa: BLE001 - as asyncio's own handles
                self.on_error(error)
        return keys

    # --- the watcher -------------------------------------------------------------------------------------------

    def add_reader(self, fd: int, callback: Callback, /) -> None:
        self._watch(fd, select.EPOLLIN)
        self._readers[fd] = callback

    def remove_reader(self, fd: int, /) -> None:
        if self._readers.pop(fd, None) is not None:
            self._unwatch(fd)

    def add_writer(self, fd: int, callback: Callback, /) -> None:
        self._watch(fd, select.EPOLLOUT)
        self._writers[fd] = callback

    def remove_writer(self, fd: int, /) -> None:
        if self._writers.pop(fd, None) is not None:
            self._unwatch(fd)

    def _events(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)

    def _watch(self, fd: int, event: int) -> None:
        """Raises OSError for a descriptor that is not open, or was closed before it was removed."""
        if before := self._events(fd):
            self._epoll.modify(fd, before | event)
        else:
            self._epoll.register(fd, event)

    def _unwatch(self, fd: int) -> None:
        if left := self._events(fd):
            self._epoll.modify(fd, left)
        elif not self._epoll.closed:  # asyncio, too, ignores this after the end of the loop
            self._epoll.unregister(fd)


class _Loop(asyncio.SelectorEventLoop):
    """asyncio's loop. It tells its selector when it has something to do."""

    time = staticmethod(monotonic)  # asyncio's method returns the same

    def __init__(self, selector: DirectSelector) -> None:
        self._direct = selector
        super().__init__(selector)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._direct.loop_has_work = True
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._direct.loop_has_work = True
        return super().call_at(when, callback, *args, context=context)

    def stop(self) -> None:
        self._direct.loop_has_work = True
        super().stop()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop with a `DirectSelector`, or an ordinary one where the system has no epoll."""
    if not _HAS_EPOLL:
        return asyncio.new_event_loop()
    selector = DirectSelector()
    loop = _Loop(selector)
    text = "the callback of a ready descriptor failed"
    selector.on_error = lambda error: loop.call_exception_handler({"message": text, "exception": error})
    _selectors[loop] = selector
    return loop


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in a new loop of `new_event_loop`, like `asyncio.run`."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def direct_selector() -> DirectSelector | None:
    """Return the selector of the running loop if it is a `DirectSelector`."""
    return _selectors.get(asyncio.get_running_loop())


def watcher() -> DescriptorWatcher:
    """Return the watcher of the running loop."""
    return direct_selector() or asyncio.get_running_loop()


def _ignored(_error: Exception) -> None:
    pass


_selectors: WeakKeyDictionary[asyncio.AbstractEventLoop, DirectSelector] = WeakKeyDictionary()
