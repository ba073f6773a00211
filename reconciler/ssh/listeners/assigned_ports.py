"""Ports that are chosen when a socket is bound: remembered, so that they stay the same, and written to a file.

In: each bound socket's owner and address. Out: the port that a tunnel had last, and its `portFile`, written in a
thread: the path may lie on a file system that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from reconciler.core.addresses import is_choice
from reconciler.core.spec import Listen, LocalUnix, RemoteUnix, TunnelSpec
from reconciler.system.file_calls import FileCalls
from reconciler.system.port_file import write_port_file

_WRITE_TIME = 86_400.0  # seconds: it is written whenever the file system answers, and nothing waits for it
_CALLS = FileCalls()  # threads of their own: writes that hang must not take those that read keys

log = logging.getLogger(__name__)


class AssignedPorts:
    """The last chosen port of each tunnel, and the writes under way."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}  # by tunnel id
        self._writing: dict[str, asyncio.Task[str]] = {}  # the last write of each path

    def last(self, tunnel: TunnelSpec) -> int:
        """Return the port that was chosen for it last, 0 for none yet."""
        return self._last.get(tunnel.id, 0)

    def bound(self, tunnel: TunnelSpec, listen: Listen, address: str) -> None:
        """Remember where the tunnel listens, if the port was chosen."""
        if is_choice(listen):
            self._last[tunnel.id] = _port(address)

    async def write(self, tunnel: TunnelSpec, listen: Listen, address: str) -> str:
        """Write the port to the tunnel's `portFile`, if it has one. Returns "", or the sentence that says why not."""
        path = tunnel.policy.port_file
        if not path or isinstance(listen, LocalUnix | RemoteUnix):
            return ""
        before = self._writing.get(path)
        task = asyncio.create_task(self._write(before, path, _port(address)), name=f"port file of {tunnel.id}")
        self._writing[path] = task
        task.add_done_callback(lambda done: self._forget_write(path, done))
        if trouble := await asyncio.shield(task):
            log.warning("%s: %s", tunnel.id, trouble, extra={"target": tunnel.target, "tunnel": tunnel.id})
        return trouble

    async def _write(self, before: asyncio.Task[str] | None, path: str, port: int) -> str:
        if before is not None:  # the file must end with the port that was written last
            await asyncio.wait({before})
        try:
            await _CALLS.ask(path, lambda: write_port_file(path, port), _WRITE_TIME)
        except OSError as error:
            return f"its `portFile` {path} is not written: {error.strerror or error}"
        return ""

    def _forget_write(self, path: str, done: asyncio.Task[str]) -> None:
        if self._writing.get(path) is done:
            del self._writing[path]

    def forget(self, live: Collection[str]) -> None:
        """Drop the ports of all tunnels but these."""
        for tunnel in self._last.keys() - live:
            del self._last[tunnel]

    async def close(self) -> None:
        """Wait for no write any more."""
        tasks = tuple(self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
