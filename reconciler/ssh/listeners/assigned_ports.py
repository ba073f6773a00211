"""Ports that the system or the server assigns when a socket is bound (port 0), and port files.

Owns the last assigned port of each tunnel, so that a new socket gets the same one. Input: the owner and address of each
bound socket. Output: the last port of a tunnel, and its `portFile`, written in a thread because the path may lie on a
file system that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from reconciler.core.addresses import is_choice
from reconciler.core.spec import Listen, LocalUnix, RemoteUnix, TunnelSpec
from reconciler.system.file_calls import FileCalls
from reconciler.system.port_file import write_port_file

_WRITE_TIME = 86_400.0  # seconds: no caller waits for the write, so it may take long
_CALLS = FileCalls()  # own threads: writes that hang must not use up the threads that read keys

log = logging.getLogger(__name__)


class AssignedPorts:
    """The last assigned port of each tunnel, and the running writes of port files."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}  # by tunnel id
        self._writing: dict[str, asyncio.Task[str]] = {}  # the last write of each path

    def last(self, tunnel: TunnelSpec) -> int:
        """Return the port that was last assigned to the tunnel, 0 for none yet."""
        return self._last.get(tunnel.id, 0)

    def bound(self, tunnel: TunnelSpec, listen: Listen, address: str) -> None:
        """Remember the port of a bound socket, if it was assigned rather than configured."""
        if is_choice(listen):
            self._last[tunnel.id] = _port(address)

    async def write(self, tunnel: TunnelSpec, listen: Listen, address: str) -> str:
        """Write the port to the tunnel's `portFile`, if it has one. Returns "" or an error message."""
        path = tunnel.policy.port_file
        if not path or isinstance(listen, LocalUnix | RemoteUnix):
            return ""
        previous = self._writing.get(path)
        task = asyncio.create_task(self._write(previous, path, _port(address)), name=f"port file of {tunnel.id}")
        self._writing[path] = task
        task.add_done_callback(lambda done: self._write_done(path, done))
        if error := await asyncio.shield(task):
            log.warning("%s: %s", tunnel.id, error, extra={"target": tunnel.target, "tunnel": tunnel.id})
        return error

    async def _write(self, previous: asyncio.Task[str] | None, path: str, port: int) -> str:
        if previous is not None:  # the last write must win
            await asyncio.wait({previous})
        try:
            await _CALLS.ask(path, lambda: write_port_file(path, port), _WRITE_TIME)
        except OSError as error:
            return f"cannot write its `portFile` {path}: {error.strerror or error}"
        return ""

    def _write_done(self, path: str, done: asyncio.Task[str]) -> None:
        if self._writing.get(path) is done:
            del self._writing[path]

    def prune(self, live: Collection[str]) -> None:
        """Drop the ports of all tunnels but these."""
        for tunnel in self._last.keys() - live:
            del self._last[tunnel]

    async def close(self) -> None:
        """Cancel the running writes."""
        tasks = tuple(self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
