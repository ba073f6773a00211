"""Tunnels for programs without an event loop: the names of `reconciler` in calls that block.

    with open_tunnels("tunnels.yaml") as tunnels:
        psycopg.connect(host="127.0.0.1", port=tunnels.port("prod/postgres"))

Owns a thread with an event loop, which runs the tunnels beside the threads of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Self, TypeVar

from reconciler import api
from reconciler.api import (
    Applied,
    BlockEndedError,
    ConfigError,
    EventStream,
    NoPortError,
    NoSuchTunnelError,
    Options,
    ReadTimeoutError,
    Source,
    TunnelEvent,
    TunnelsError,
    TunnelsNotUpError,
    TunnelState,
    WrongContextError,
)
from reconciler.api.tunnels import WITHIN
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.event_loop.readiness import new_event_loop

__all__ = [
    "BlockEndedError",
    "BlockingEvents",
    "BlockingTunnels",
    "ConfigError",
    "NoPortError",
    "NoSuchTunnelError",
    "ReadTimeoutError",
    "TunnelsError",
    "TunnelsNotUpError",
    "WrongContextError",
    "open_tunnels",
]

T = TypeVar("T")

log = logging.getLogger(__name__)
_threads = DaemonThreads(8)  # that all blocks use for file calls; the end of a block does not wait for them


class BlockingTunnels:
    """The tunnels of an `open_tunnels` block. Any thread may call it.

    The calls are those of `api.Tunnels`, with the same parameters, results and errors. Those that wait block the
    calling thread; Ctrl-C interrupts them. A child process made by `fork` may call those that do not wait.
    """

    def __init__(self, tunnels: api.Tunnels, caller: _Caller) -> None:
        self._tunnels = tunnels  # its calls that do not wait only read frozen values: any thread may call them
        self._caller = caller
        self._call = caller.call

    def __getitem__(self, tunnel: str) -> TunnelState:
        """Return the state of the tunnel `target/name` at this moment."""
        return self._tunnels[tunnel]

    def all(self) -> tuple[TunnelState, ...]:
        """Return the state of every tunnel at this moment, in the order of the configuration."""
        return self._tunnels.all()

    def port(self, tunnel: str) -> int:
        """Return the port that a tunnel listens on, configured or assigned."""
        return self._tunnels.port(tunnel)

    def until_up(self, within: float = WITHIN) -> None:
        """Wait until all tunnels are up, except those in phase off or standby."""
        self._call(lambda: self._tunnels.until_up(within))

    def events(self, within: float | None = None) -> BlockingEvents:
        """Return an iterator over the events from now on. It ends after `within` seconds, or with the block."""

        async def events() -> EventStream:
            return self._tunnels.events(within)

        return BlockingEvents(self._call(events), self._caller)

    def apply(self, source: Source, *, within: float = WITHIN) -> Applied:
        """Replace the configuration, and wait until the tunnels match it. Return what was done."""
        return self._call(lambda: self._tunnels.apply(source, within=within))

    def restart(self, tunnel: str, *, now: bool = False, within: float = WITHIN) -> tuple[TunnelState, ...]:
        """Replace the connections of a target, make before break, and wait until that is done."""
        return self._call(lambda: self._tunnels.restart(tunnel, now=now, within=within))

    def pause(self, tunnel: str, seconds: float | None = None, *, within: float = WITHIN) -> tuple[TunnelState, ...]:
        """Close the listener of a tunnel, and wait until that is done. Its clients drain."""
        return self._call(lambda: self._tunnels.pause(tunnel, seconds, within=within))

    def resume(self, tunnel: str, *, within: float = WITHIN) -> tuple[TunnelState, ...]:
        """End the pause of a tunnel, and wait until it listens again."""
        return self._call(lambda: self._tunnels.resume(tunnel, within=within))


class BlockingEvents:
    """An iterator over the events of a block, from the call of `events` on. Threads that share it share the events."""

    def __init__(self, stream: EventStream, caller: _Caller) -> None:
        self._stream = stream
        self._call = caller.call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TunnelEvent:
        try:
            event = self._call(self._stream.next)
        except BlockEndedError:
            event = None
        if event is None:
            raise StopIteration
        return event


@contextlib.contextmanager
def open_tunnels(
    source: Source,
    *,
    environ: Mapping[str, str] | None = None,
    options: Options | None = None,
    within: float = WITHIN,
) -> Iterator[BlockingTunnels]:
    """Open the tunnels of `source`, keep them open while the block runs, close them at its end.

    Parameters and errors are those of `reconciler.open_tunnels`.
    """
    process = os.getpid()
    loop = new_event_loop()
    loop.set_default_executor(_threads)
    caller = _Caller(loop, process)
    opened: Future[api.Tunnels] = Future()

    async def serve() -> None:
        async with api.open_tunnels(source, environ=environ, options=options, within=within) as tunnels:
            opened.set_result(tunnels)
            await loop.create_future()  # until `task` is cancelled

    def report(ended: asyncio.Task[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        if error is None:
            return
        if opened.done():
            log.error("the tunnels ended with an error: please report this with the log", exc_info=error)
        else:
            opened.set_exception(error)

    task = loop.create_task(serve())
    task.add_done_callback(report)
    # A daemon: a program that ends without leaving the block does not wait for it.
    thread = threading.Thread(target=_run, args=(loop, task, caller), name="tunnels", daemon=True)
    try:
        thread.start()
        yield BlockingTunnels(opened.result(), caller)
    finally:  # also if Ctrl-C ends the wait for `opened`
        if os.getpid() == process:  # a child process shares the selector of the loop, and must not change it
            caller.end(task)
            thread.join()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], caller: _Caller) -> None:
    loop.run_until_complete(asyncio.wait({task}))
    loop.run_until_complete(caller.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


class _Caller:
    """Runs coroutines for other threads in the loop of a block, until the block ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, process: int) -> None:
        self._loop = loop
        self._process = process
        self._lock = threading.Lock()  # held while a coroutine is handed over: none comes after `close`
        self._is_closed = False

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `function` in the loop and return its result. Raises BlockEndedError and WrongContextError."""
        if os.getpid() != self._process:
            raise WrongContextError("the block belongs to the parent process: open the tunnels in this process")
        with self._lock:
            if self._is_closed:
                raise BlockEndedError
            future = asyncio.run_coroutine_threadsafe(function(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise BlockEndedError from None
        finally:  # if Ctrl-C ends the wait
            future.cancel()

    def end(self, task: asyncio.Task[None]) -> None:
        """Cancel the task of the block."""
        with self._lock:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(task.cancel)

    async def close(self) -> None:
        """Accept no more coroutines, and end those that run. Runs in the loop."""
        with self._lock:
            self._is_closed = True
        await asyncio.sleep(0)  # each coroutine that was handed over has a task now
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)
