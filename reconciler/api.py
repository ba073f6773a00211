"""Tunnels for Python programs: `async with open_tunnels("tunnels.yaml") as tunnels: tunnels.port("prod/postgres")`.

Owns a reconcile loop and an actuator while the block runs, in the event loop of the calling program. Input: a file, a
directory, or the content of a file as a mapping. Output: tunnels that are up and stay up. The block starts no file
watcher, serves no endpoint and installs no signal handler. It does not change the limit of open files: listeners,
links and clients together use at most about three quarters of the descriptors that are free under the soft limit when
the block is entered. A program with many clients raises the limit first (`resource.setrlimit`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from reconciler.config.load import Loaded, load_files, load_text
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError
from reconciler.core.observed import Now, Observed, Phase
from reconciler.core.overlay import Overlay
from reconciler.core.plan import Plan
from reconciler.core.spec import Desired, TunnelSpec
from reconciler.core.status import Status, TunnelStatus, make_status
from reconciler.probes import PROBES
from reconciler.runtime.loop import Loop, SystemClock
from reconciler.runtime.probe_restart_policy import is_restart_due
from reconciler.ssh.actuator import SshActuator
from reconciler.system.redaction import redact

log = logging.getLogger(__name__)

__all__ = ["ConfigError", "Tunnels", "TunnelsNotUpError", "open_tunnels"]


class TunnelsNotUpError(Exception):
    """Not all tunnels came up in time. The message has a line for each tunnel, with its phase and message."""


class Tunnels:
    """The tunnels of an `open_tunnels` block. Each call returns their status at that moment."""

    def __init__(self) -> None:
        self._status = Status((), ())
        self._changed = asyncio.Event()

    def __getitem__(self, tunnel: str) -> TunnelStatus:
        """Return the status of the tunnel `target/name`. Raises KeyError."""
        for status in self._status.tunnels:
            if status.id == tunnel:
                return status
        raise KeyError(tunnel)

    def all(self) -> tuple[TunnelStatus, ...]:
        """Return the status of every tunnel, in the order of the file."""
        return self._status.tunnels

    def port(self, tunnel: str) -> int:
        """Return the port that a tunnel listens on, configured or assigned. Raises KeyError.

        Raises ValueError for a unix socket.
        """
        return int(self[tunnel].bound.rpartition(":")[2])

    def update(self, status: Status) -> None:
        """Replace the status; called by `open_tunnels` after each pass of the loop."""
        self._status = status
        self._changed.set()

    async def until_up(self, within: float) -> None:
        """Wait until all tunnels are up, except those in phase off or standby. Raises TunnelsNotUpError."""
        try:
            async with asyncio.timeout(within):
                while not self._status.tunnels or any(map(_is_awaited, self._status.tunnels)):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            lines = [f"{one.id}: {one.verdict.phase} {one.verdict.message}".rstrip() for one in self.all()]
            raise TunnelsNotUpError(f"not up after {within:g} s:\n" + redact("\n".join(lines))) from None


@contextlib.asynccontextmanager
async def open_tunnels(
    source: str | Path | Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    options: Options | None = None,
    within: float = 30.0,
) -> AsyncIterator[Tunnels]:
    """Open the tunnels of `source`, keep them open while the block runs, close them at its end.

    `within`: seconds until all tunnels must be up. Raises ConfigError if the source is not valid, and
    TunnelsNotUpError. The end of the block cuts live clients.
    """
    loaded = await asyncio.to_thread(_load, source, os.environ if environ is None else environ, options)
    if loaded.errors:
        raise ConfigError(*(replace(problem, message=redact(problem.message)) for problem in loaded.errors))
    tunnels = Tunnels()

    def observer(desired: Desired, observed: Observed, _plan: Plan, now: Now) -> None:
        tunnels.update(make_status(desired, observed, now, loaded.broken))

    def failing(tunnel: TunnelSpec) -> None:
        if is_restart_due(tunnel, actuator.records, actuator.clients, loop.now().mono):
            log.warning("target %s is restarted: the health probe of tunnel %s fails", tunnel.target, tunnel.id)
            overlay.restart(tunnel.target)
            loop.set_desired(overlay.over(loaded.desired))

    overlay = Overlay()
    loop = Loop(SystemClock(), observer)
    actuator = SshActuator(
        os.environ if environ is None else environ,
        PROBES,
        changed=loop.wake,
        failing=failing,
    )
    loop.set_desired(loaded.desired)
    tasks = [asyncio.create_task(loop.run(actuator)), asyncio.create_task(actuator.maintain())]
    try:
        if loaded.desired.tunnels:
            await tunnels.until_up(within)
        yield tunnels
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await actuator.close()


def _load(source: str | Path | Mapping[str, object], environ: Mapping[str, str], options: Options | None) -> Loaded:
    if isinstance(source, Mapping):
        # JSON is YAML: the mapping goes through the same reader, schema and messages as a file.
        return load_text(json.dumps(source), "<mapping>", environ=environ, options=options, directory=str(Path.cwd()))
    return load_files([source], environ=environ, options=options)


def _is_awaited(status: TunnelStatus) -> bool:
    return status.verdict.phase not in (Phase.UP, Phase.OFF, Phase.STANDBY)
