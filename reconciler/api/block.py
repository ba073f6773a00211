"""What one `open_tunnels` block owns: the engine, the events, and the end of every wait.

Each wait ends at a deadline or when the block ends. Input: configurations and requests. Output: statuses and results.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import replace

from reconciler.api.errors import BlockEndedError, ReadTimeoutError, TunnelsNotUpError, WrongContextError
from reconciler.api.events import EventLog
from reconciler.api.results import Applied, TunnelState, compare
from reconciler.api.source import Reader, Source
from reconciler.config.load import Loaded
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError
from reconciler.core.observed import Now, Observed
from reconciler.core.plan import Plan
from reconciler.core.spec import TunnelSpec
from reconciler.core.status import TunnelStatus
from reconciler.core.text.progress import Progress
from reconciler.runtime.engine import Engine, EngineClosedError
from reconciler.runtime.operations import Operations
from reconciler.runtime.plan_report import report_plan
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.redaction import Redactor
from reconciler.system.terminal_line import terminal_line

log = logging.getLogger(__name__)

_threads = DaemonThreads(8)  # that read configurations: nothing waits for one that reads a pipe or an unreachable file


class Block:
    """One block. It is created in the event loop that it runs in."""

    def __init__(self, environ: Mapping[str, str], options: Options | None) -> None:
        self.events = EventLog()
        self._engine = Engine(environ, on_pass=self._passed, on_event=self.events.add)
        self.operations = Operations(self._engine, "the program")
        self._reader = Reader(environ, options)
        # The values of variables to hide: of this configuration, and of the one before, for clients that drain.
        self._hidden = deque[Redactor](maxlen=2)
        self._applying = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._has_ended = False
        self._reconciling: asyncio.Task[None] | None = None

    # Two methods, not a context manager made of a generator: the end of the event loop closes all generators at once,
    # and one that runs in another fails then.

    async def start(self, source: Source, within: float) -> None:
        """Open the tunnels of `source`. Raises ConfigError, TunnelsNotUpError. `end` is called in any case."""
        deadline = self.deadline(within)
        async with _in_time(deadline, within):
            self._configure(await self._read(source))
        self._reconciling = asyncio.create_task(self._engine.run())
        self._reconciling.add_done_callback(_log_failure)
        await self.until_up(deadline, within)

    async def end(self) -> None:
        """Close the tunnels, and end every wait."""
        self._has_ended = True
        if self._reconciling is not None:
            self._reconciling.cancel()
            await asyncio.gather(self._reconciling, return_exceptions=True)
        self.events.ring.close()
        await self._engine.close()

    def statuses(self) -> tuple[TunnelStatus, ...]:
        """Return the status of every tunnel, in the order of the configuration. Raises BlockEndedError."""
        if self._has_ended:
            raise BlockEndedError
        return self._engine.status.tunnels if self._engine.status is not None else ()

    # --- waiting -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise BlockEndedError or WrongContextError if a call cannot wait here."""
        if self._has_ended:
            raise BlockEndedError
        if os.getpid() != self._process:
            raise WrongContextError("the block belongs to the parent process: open the tunnels in this process")
        if _running_loop() is not self._loop:
            raise WrongContextError(
                "the block belongs to another event loop: call this there, or use `reconciler.blocking`"
            )

    def deadline(self, within: float) -> float:
        """Return the time of the loop in that many seconds. Raises what `check` raises, and ValueError."""
        self.check()
        return self._loop.time() + seconds(within)

    async def until_up(self, deadline: float, within: float) -> None:
        """Wait until all tunnels are up. Raises TunnelsNotUpError; `within` is for its message."""
        with terminal_line() as line:

            def is_up() -> bool:
                if not self._engine.is_status_current:
                    return False
                progress = self._progress()
                if progress.is_hopeless:
                    raise self._not_up("no retry helps until this is fixed")
                if progress.missing:
                    line.show(str(progress))
                return not progress.missing

            if not await self._until(is_up, deadline):
                raise self._not_up(f"not up after {within:g} s")

    async def settled(self, tunnels: Iterable[TunnelSpec], deadline: float) -> tuple[TunnelState, ...]:
        """Wait until the targets of these tunnels are settled. Return the tunnels as they are then."""
        ids = {tunnel.id for tunnel in tunnels}
        await self._are_settled(ids, deadline)
        return tuple(TunnelState.of(status) for status in self.statuses() if status.id in ids)

    async def _are_settled(self, ids: Iterable[str], deadline: float) -> bool:
        targets: Collection[str] = {one.partition("/")[0] for one in ids}
        return await self._until(lambda: self._engine.are_settled(targets), deadline)

    async def _until(self, is_done: Callable[[], bool], deadline: float) -> bool:
        try:
            return await self._engine.until(is_done, max(0.0, deadline - self._loop.time()))
        except EngineClosedError:
            raise BlockEndedError from None

    def _progress(self) -> Progress:
        return Progress.of((one.id, one.verdict.phase, one.verdict.needs_action) for one in self.statuses())

    def _not_up(self, what: str) -> TunnelsNotUpError:
        missing = frozenset(self._progress().missing)
        return TunnelsNotUpError(what, tuple(TunnelState.of(one) for one in self.statuses() if one.id in missing))

    # --- another configuration ---------------------------------------------------------------------------------

    async def apply(self, source: Source, within: float) -> Applied:
        """Replace the configuration, and wait until the affected tunnels match it."""
        deadline = self.deadline(within)
        async with _in_time(deadline, within), self._applying:
            applied = await self._replace(source)
        if applied.rejected:
            return applied
        return replace(applied, converged=await self._are_settled(applied.affected, deadline))

    async def _replace(self, source: Source) -> Applied:
        try:
            loaded = await self._read(source)
        except ConfigError as error:
            log.error("the new configuration was rejected: %s", error.problems[0])  # noqa: TRY400 - no traceback
            self.events.loaded("", error.problems)
            return Applied(rejected=error.problems)
        applied = await self._plan(loaded)
        self.check()  # the block may have ended meanwhile
        self.events.loaded(loaded.revision, ())
        self._configure(loaded)
        return applied

    def _configure(self, loaded: Loaded) -> None:
        self._hidden.append(loaded.hidden)
        self._engine.configure(loaded.desired, loaded.broken)

    async def _read(self, source: Source) -> Loaded:
        return await self._loop.run_in_executor(_threads, self._reader.read, source)

    async def _plan(self, loaded: Loaded) -> Applied:
        """Return what this configuration will do."""
        before, after = self._engine.desired, self._engine.with_overlay(loaded.desired)
        observed, now = self._engine.actuator.observe(), self._engine.loop.now()
        report = await asyncio.to_thread(report_plan, before, after, observed, now)
        return compare(before, after, report, loaded, now.wall)

    def _passed(self, planned_from: Observed, plan: Plan, now: Now) -> None:
        if self._engine.status is not None:
            self.events.passed(self._engine.status, planned_from, plan, now)


@contextlib.asynccontextmanager
async def _in_time(deadline: float, within: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise ReadTimeoutError(
            f"the configuration was not read within {within:g} s, and nothing was changed: give it more time"
        ) from None


def seconds(value: float) -> float:
    """Return a time to wait. Raises ValueError."""
    if math.isnan(value) or value < 0:
        raise ValueError(f"{value} s is out of range: expected 0 or more")
    return value


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _log_failure(loop: asyncio.Task[None]) -> None:
    if not loop.cancelled() and loop.exception() is not None:
        log.critical("the reconcile loop failed: please report this with the log", exc_info=loop.exception())
