"""The composition root: file -> desired -> loop -> fleet, with signals and an orderly end.

Owns the process's tasks. In: the configuration of the command line. Out: changes to
whoever listens, and the exit code. A task that fails never ends another: the watcher is started again, and a failure
of the loop itself, which would be a fault of this program, is reported and ends the process, so that its supervisor
starts it afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator

from reconciler.config.load import Config, Loaded
from reconciler.config.watch import Watcher
from reconciler.core.judge import Judgement, judge
from reconciler.core.plan import Plan
from reconciler.core.spec import NOTHING, Desired, TunnelSpec
from reconciler.core.status import Now, Observed
from reconciler.loop import Loop, SystemClock
from reconciler.probes import PROBES
from reconciler.report.journal import Change, Journal
from reconciler.ssh.fleet import Fleet

log = logging.getLogger(__name__)

RECONNECT_EVERY = 300.0  # seconds between two connections replaced because a probe fails
RESTART_AFTER = 1.0  # seconds before a failed helper task is started again


class App:
    """See the module. `on_change` hears of every change, after the log has."""

    def __init__(self, config: Config, *, on_change: Callable[[Change], None] | None = None) -> None:
        self._config = config
        self._on_change = on_change
        self._journal = Journal()
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loading = asyncio.Lock()
        self._reloads: set[asyncio.Task[Loaded]] = set()
        self._empty = asyncio.Event()
        self.loop = Loop(SystemClock(), self._observed)
        self.fleet = Fleet(config.environ, PROBES, changed=self.loop.wake, failing=self._failing)
        self.loaded: Loaded | None = None
        self._generations: dict[str, int] = {}
        self._replaced: dict[str, float] = {}  # by target: when a failing probe last replaced its connection
        self._moved: dict[str, int] = {}  # by tunnel with a failing probe: what its neighbours had moved by then
        self.judgement: Judgement | None = None

    # --- life --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Converge until told to end. Returns the exit code: 2 if what was read at the start is not fit to start with.

        A bad file among good ones is left out, unless the options are strict.
        """
        loaded = await self.load()
        if not loaded.usable or (self._config.options.strict and not loaded.valid):
            return 2
        helpers = [
            asyncio.create_task(self._forever(self._watch, "the watcher"), name="watcher"),
            asyncio.create_task(self._forever(self.fleet.tend, "the tender"), name="tender"),
        ]
        reconciling = asyncio.create_task(self.loop.run(self.fleet), name="reconcile loop")
        ending = asyncio.create_task(self._end(), name="end")
        try:
            await asyncio.wait({reconciling, ending}, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                log.critical("the reconcile loop failed; please report this", exc_info=reconciling.exception())
                return 1
            return 0
        finally:
            for task in (*helpers, reconciling, ending):
                task.cancel()
            await asyncio.gather(*helpers, reconciling, ending, return_exceptions=True)
            await self.fleet.close()

    def end(self) -> None:
        """Stop accepting, let the clients drain, then return from `run`. Called again: end at once."""
        if self._ending.is_set():
            self._hurry.set()
        else:
            log.info("ending: no new clients; live ones may drain. Once more ends at once")
        self._ending.set()

    def reload(self) -> None:
        """Read the files again, as if they had changed."""
        task = asyncio.get_running_loop().create_task(self.load(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end, a second one at once; SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.end, signal.SIGINT: self.end, signal.SIGHUP: self.reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    # --- tasks -------------------------------------------------------------------------------------------------

    async def _forever(self, work: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        while True:
            try:
                await work()
            except Exception:  # supervision: a helper's fault is reported, and it is started again
                log.exception("%s failed and is started again; please report this", name)
            await asyncio.sleep(RESTART_AFTER)

    async def _watch(self) -> None:
        async with Watcher(self._config.paths) as watcher:
            loaded = await self.load()  # what changed between the first load and the begin of the watch
            while True:
                watcher.watch_also(loaded.watched)
                change = await anext(watcher)
                if change.config:
                    loaded = await self.load()
                self.fleet.files_changed()  # a key or a known hosts file may be what a target waits for

    async def _end(self) -> None:
        await self._ending.wait()
        self.loop.want(NOTHING)
        waiting = [asyncio.create_task(self._empty.wait()), asyncio.create_task(self._hurry.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    # --- what flows through ------------------------------------------------------------------------------------

    async def load(self) -> Loaded:
        """Read the files; what is valid is asked for from now on. Each problem is told when it is new."""
        async with self._loading:
            before, self.loaded = self.loaded, await asyncio.to_thread(self._config.reload)
            loaded = self.loaded
        for level, problems, known in (
            (logging.ERROR, loaded.errors, before.errors if before else ()),
            (logging.WARNING, loaded.warnings, before.warnings if before else ()),
        ):
            for problem in problems:
                if problem not in known:
                    log.log(level, "%s", problem)
        if before is not None and before.errors and not loaded.errors:
            log.info("the files are valid again")
        self._want()
        return loaded

    def _want(self) -> None:
        """Ask for what the files say, as changed by what was asked of this process since it started."""
        if self.loaded is not None and not self._ending.is_set():
            self.loop.want(self.loaded.desired.restarted(self._generations))

    def restart(self, target: str) -> None:
        """Give a target new connections, by make before break."""
        self._generations[target] = self._generations.get(target, 0) + 1
        self._want()

    def _failing(self, tunnel: TunnelSpec) -> None:
        """A probe that may replace the connection fails. Not too often, and not while others on it move data."""
        now = asyncio.get_running_loop().time()
        others = [
            m for name, m in self.fleet.meters.items() if name.startswith(f"{tunnel.target}/") and name != tunnel.id
        ]
        moved = sum(meter.sent + meter.received for meter in others)
        moved_before, self._moved[tunnel.id] = self._moved.get(tunnel.id), moved
        if now - self._replaced.get(tunnel.target, -RECONNECT_EVERY) >= RECONNECT_EVERY and moved == moved_before:
            self._replaced[tunnel.target] = now
            log.warning("tunnel %s: its probe fails: the connection is replaced", tunnel.id)
            self.restart(tunnel.target)

    def _observed(self, desired: Desired, observed: Observed, plan: Plan, now: Now) -> None:
        self.judgement = judge(desired, observed, now, self.loaded.broken if self.loaded else {})
        for change in self._journal.note(self.judgement, now.wall):
            log.log(logging.WARNING if change.is_trouble else logging.INFO, "%s", change.sentence())
            if self._on_change is not None:
                self._on_change(change)
        idle = not (observed.links or observed.sockets or observed.flows or plan.actions)
        if self._ending.is_set() and desired is self.loop.desired and idle:
            self._empty.set()
