"""Writes port files: the port of a bound socket, for programs that read it from a file.

Input: the record of a bound listener. Output: its owner's `portFile`, written in a thread because the path may lie on a
file system that does not answer; and a remark in the state of the listener if that fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from reconciler.core.faults import internal
from reconciler.core.spec import Listen, LocalUnix, RemoteUnix, TunnelSpec
from reconciler.core.subject import Subject
from reconciler.ssh.listeners.address_records import Listener
from reconciler.system.fault_log import FaultLog
from reconciler.system.file_calls import FileCalls
from reconciler.system.port_file import write_port_file

PORT_FILE_TIMEOUT = 2.0  # seconds that a new listener waits for its port file before it is reported as bound
_WRITE_TIME = 86_400.0  # seconds: no caller waits for the write, so it may take long
_CALLS = FileCalls()  # own threads: writes that hang must not use up the threads that read keys

log = logging.getLogger(__name__)


class PortFiles:
    """The running writes of port files. `changed` is called when the remark of a listener has changed."""

    def __init__(self, *, changed: Callable[[], None], fault_log: FaultLog) -> None:
        self._changed = changed
        self._fault_log = fault_log
        self._writing: dict[str, asyncio.Task[str]] = {}  # the last write of each path
        self._updates: set[asyncio.Task[None]] = set()

    def update(self, listener: Listener) -> asyncio.Task[None]:
        """Start to write the port file of a listener's owner, if it has one."""
        task = asyncio.create_task(self._update(listener), name=f"port file of {listener.state.owner.id}")
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        return task

    async def updated(self, listener: Listener) -> None:
        """Write the port file of a new listener's owner. Returns after `PORT_FILE_TIMEOUT` at the latest."""
        writing = self.update(listener)
        await asyncio.wait({writing}, timeout=PORT_FILE_TIMEOUT)
        if not writing.done():
            self._set_remark(listener, "its `portFile` is not written yet: the file system does not answer")

    async def close(self) -> None:
        """Cancel the running writes."""
        tasks = (*self._updates, *self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _update(self, listener: Listener) -> None:
        """Write the owner's file; again for the new owner if it changes meanwhile."""
        owner = None
        while owner is not listener.state.owner:
            owner, state = listener.state.owner, listener.state
            try:
                remark = await self.write(owner, state.key.listen, state.bound)
            except Exception as error:  # noqa: BLE001 - the tunnel works without its file
                self._fault_log.tell("writing a port file", error, subject=Subject("tunnel", owner.id))
                remark = internal("writing its `portFile`", error).message
            self._set_remark(listener, remark)

    def _set_remark(self, listener: Listener, remark: str) -> None:
        if remark != listener.state.remark:
            listener.state = replace(listener.state, remark=remark)
            self._changed()

    async def write(self, tunnel: TunnelSpec, listen: Listen, address: str) -> str:
        """Write the port to the tunnel's `portFile`, if it has one. Returns "" or an error message."""
        path = tunnel.policy.port_file
        if not path or isinstance(listen, LocalUnix | RemoteUnix):
            return ""
        previous = self._writing.get(path)
        task = asyncio.create_task(self._write(previous, path, port_of(address)), name=f"port file of {tunnel.id}")
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


def port_of(address: str) -> int:
    """Return the port of a bound address."""
    return int(address.rpartition(":")[2])
