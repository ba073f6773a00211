"""Tunnels for programs without an event loop: the names of `reconciler.api` in calls that block.

    with open_tunnels("tunnels.yaml") as tunnels:
        psycopg.connect(host="127.0.0.1", port=tunnels.port("prod/postgres"))

Owns a thread with an event loop, which runs the tunnels beside the threads of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

from reconciler import api
from reconciler.api import ConfigError, TunnelsNotUpError
from reconciler.config.options import Options
from reconciler.core.status import TunnelStatus

__all__ = ["BlockingTunnels", "ConfigError", "TunnelsNotUpError", "open_tunnels"]


class BlockingTunnels:
    """The tunnels of an `open_tunnels` block. Any thread may call it. `api.Tunnels` says what the calls return."""

    def __init__(self, tunnels: api.Tunnels, loop: asyncio.AbstractEventLoop) -> None:
        self._tunnels = tunnels  # its calls that do not wait only read frozen values: any thread may call them
        self._loop = loop

    def __getitem__(self, tunnel: str) -> TunnelStatus:
        return self._tunnels[tunnel]

    def all(self) -> tuple[TunnelStatus, ...]:
        return self._tunnels.all()

    def port(self, tunnel: str) -> int:
        return self._tunnels.port(tunnel)

    def until_up(self, within: float) -> None:
        if self._loop.is_closed():
            raise RuntimeError(api.BLOCK_ENDED)
        asyncio.run_coroutine_threadsafe(self._tunnels.until_up(within), self._loop).result()


@contextlib.contextmanager
def open_tunnels(
    source: str | Path | Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    options: Options | None = None,
    within: float = 30.0,
) -> Iterator[BlockingTunnels]:
    """Open the tunnels of `source`, keep them open while the block runs, close them at its end.

    Parameters and errors are those of `api.open_tunnels`.
    """
    loop = asyncio.new_event_loop()
    opened: Future[api.Tunnels] = Future()

    async def serve() -> None:
        async with api.open_tunnels(source, environ=environ, options=options, within=within) as tunnels:
            opened.set_result(tunnels)
            await loop.create_future()  # until `task` is cancelled

    def report(ended: asyncio.Task[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        if error is not None and not opened.done():
            opened.set_exception(error)

    task = loop.create_task(serve())
    task.add_done_callback(report)
    # A daemon: a program that ends without leaving the block does not wait for it.
    thread = threading.Thread(target=_run, args=(loop, task), name="tunnels", daemon=True)
    thread.start()
    try:
        yield BlockingTunnels(opened.result(), loop)
    finally:  # also if Ctrl-C ends the wait for `opened`
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    loop.run_until_complete(asyncio.wait({task}))
    waiting = asyncio.all_tasks(loop)  # of other threads, in `until_up`
    for one in waiting:
        one.cancel()
    if waiting:
        loop.run_until_complete(asyncio.wait(waiting))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
