"""Tunnels for Python programs: `async with open_tunnels("tunnels.yaml") as tunnels: tunnels.port("prod/postgres")`.

Owns a loop and a fleet for as long as the block lasts, in the program's own event loop. In: a file, a directory, or
the content of one as a mapping. Out: tunnels that are up, and kept up. There is no watcher, no endpoint and no signal
handler here: those are the process's, and the process is yours. For the same reason its limit of open files stays as it
is: listeners, connections and clients together get about three quarters of what is left of the soft limit when the
block is entered. A program with many clients raises it first (`resource.setrlimit`).
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
from reconciler.runtime.probe_restart_policy import ProbeRestartPolicy
from reconciler.ssh.actuator import SshActuator
from reconciler.system.redaction import redact

log = logging.getLogger(__name__)

__all__ = ["ConfigError", "Tunnels", "TunnelsNotUpError", "open_tunnels"]


class TunnelsNotUpError(Exception):
    """Not all tunnels came up in time. The message has a line for each that did not, with its reason."""


class Tunnels:
    """The tunnels of an `open_tunnels` block, as they are at the moment of asking."""

    def __init__(self) -> None:
        self._judgement = Status((), ())
        self._changed = asyncio.Event()

    def __getitem__(self, tunnel: str) -> TunnelStatus:
        """What `target/name` is. Raises KeyError."""
        for status in self._judgement.tunnels:
            if status.id == tunnel:
                return status
        raise KeyError(tunnel)

    def all(self) -> tuple[TunnelStatus, ...]:
        """Every tunnel, in the order of the file."""
        return self._judgement.tunnels

    def port(self, tunnel: str) -> int:
        """The port that a tunnel listens on, chosen or not. Raises KeyError, and ValueError for a unix socket."""
        return int(self[tunnel].bound.rpartition(":")[2])

    def heard(self, judgement: Status) -> None:
        """For `open_tunnels`: this is how things are now."""
        self._judgement = judgement
        self._changed.set()

    async def until_up(self, within: float) -> None:
        """Wait until all are up (those that are off or stand by do not count). Raises TunnelsNotUpError."""
        try:
            async with asyncio.timeout(within):
                while not self._judgement.tunnels or any(map(_is_awaited, self._judgement.tunnels)):
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
    """Open the tunnels of `source`, keep them open while the block runs, close them when it is left.

    `within` is how many seconds they may take to come up. Raises ConfigError if the source is not valid, and
    TunnelsNotUpError. Live clients are cut when the block is left: it is the program that uses them.
    """
    loaded = await asyncio.to_thread(_load, source, os.environ if environ is None else environ, options)
    if loaded.errors:
        raise ConfigError(*(replace(problem, message=redact(problem.message)) for problem in loaded.errors))
    tunnels = Tunnels()

    def observed(desired: Desired, world: Observed, _plan: Plan, now: Now) -> None:
        tunnels.heard(make_status(desired, world, now, loaded.broken))

    def failing(tunnel: TunnelSpec) -> None:
        if replacements.is_due(tunnel, actuator.meters, loop.now().mono):
            log.warning("target %s is restarted: the probe of tunnel %s fails", tunnel.target, tunnel.id)
            overlay.restart(tunnel.target)
            loop.want(overlay.over(loaded.desired))

    overlay, replacements = Overlay(), ProbeRestartPolicy()
    loop = Loop(SystemClock(), observed)
    actuator = SshActuator(
        os.environ if environ is None else environ,
        PROBES,
        changed=loop.wake,
        failing=failing,
    )
    loop.want(loaded.desired)
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
