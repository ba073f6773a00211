"""Tunnels for Python programs: `async with open_tunnels("tunnels.yaml") as tunnels: tunnels.port("prod/postgres")`.

Owns an engine while the block runs, in the event loop of the calling program. Input: a file, a directory, or the
content of a file as a mapping. Output: tunnels that are up and stay up. The block starts no file watcher, serves no
endpoint and installs no signal handler. It does not change the limit of open files: listeners, links and clients
together use at most about three quarters of the descriptors that are free under the soft limit when the block is
entered. A program with many clients raises the limit first (`resource.setrlimit`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from reconciler.config.load import Loaded, load_files, load_text
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError
from reconciler.core.observed import Phase
from reconciler.core.status import TunnelStatus
from reconciler.core.text.forms import progress
from reconciler.runtime.engine import Engine
from reconciler.system.redaction import redact
from reconciler.system.terminal_line import TerminalLine, terminal_line

__all__ = ["ConfigError", "Tunnels", "TunnelsNotUpError", "open_tunnels"]

BLOCK_ENDED = "the `open_tunnels` block has ended: call this inside it"


class TunnelsNotUpError(Exception):
    """Not all tunnels came up in time, or each missing tunnel needs action, so that no retry helps.

    The message has a line for each tunnel, with its phase and message.
    """


class Tunnels:
    """The tunnels of an `open_tunnels` block. Each call returns their status at that moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, tunnel: str) -> TunnelStatus:
        """Return the status of the tunnel `target/name`. Raises KeyError."""
        for status in self.all():
            if status.id == tunnel:
                return status
        raise KeyError(tunnel)

    def all(self) -> tuple[TunnelStatus, ...]:
        """Return the status of every tunnel, in the order of the file."""
        return self._engine.status.tunnels if self._engine.status is not None else ()

    def port(self, tunnel: str) -> int:
        """Return the port that a tunnel listens on, configured or assigned. Raises KeyError.

        Raises ValueError for a unix socket.
        """
        return int(self[tunnel].bound.rpartition(":")[2])

    async def until_up(self, within: float) -> None:
        """Wait until all tunnels are up, except those in phase off or standby.

        Raises TunnelsNotUpError, at once if no retry helps because each missing tunnel needs action, and RuntimeError
        if the block ends meanwhile. Shows the progress on stderr if stderr is a terminal.
        """
        try:
            with terminal_line() as line:
                async with asyncio.timeout(within):
                    while not self._engine.is_status_current or (missing := list(filter(_is_awaited, self.all()))):
                        if self._engine.is_status_current:
                            self._show_or_give_up(missing, line)
                        if not await self._engine.passed():
                            raise RuntimeError(BLOCK_ENDED)
        except TimeoutError:
            raise self._not_up(f"not up after {within:g} s") from None

    def _show_or_give_up(self, missing: list[TunnelStatus], line: TerminalLine) -> None:
        if all(one.verdict.needs_action for one in missing):
            raise self._not_up("no retry helps until this is fixed")
        line.show(progress(sum(one.verdict.phase is Phase.UP for one in self.all()), [one.id for one in missing]))

    def _not_up(self, what: str) -> TunnelsNotUpError:
        lines = [f"{one.id}: {one.verdict.phase} {one.verdict.message}".rstrip() for one in self.all()]
        return TunnelsNotUpError(f"{what}:\n" + redact("\n".join(lines)))


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
    environ = dict(os.environ) if environ is None else environ
    loaded = await asyncio.to_thread(_load, source, environ, options)
    if loaded.errors:
        raise ConfigError(*(replace(problem, message=redact(problem.message)) for problem in loaded.errors))
    engine = Engine(environ)
    engine.configure(loaded.desired, loaded.broken)
    running = asyncio.create_task(engine.run())
    tunnels = Tunnels(engine)
    try:
        await tunnels.until_up(within)
        yield tunnels
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await engine.close()


def _load(source: str | Path | Mapping[str, object], environ: Mapping[str, str], options: Options | None) -> Loaded:
    if isinstance(source, Mapping):
        # JSON is YAML: the mapping goes through the same reader, schema and messages as a file.
        return load_text(json.dumps(source), "<mapping>", environ=environ, options=options, directory=str(Path.cwd()))
    return load_files([source], environ=environ, options=options)


def _is_awaited(status: TunnelStatus) -> bool:
    return status.verdict.phase not in (Phase.UP, Phase.OFF, Phase.STANDBY)
