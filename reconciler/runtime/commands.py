"""Carries out the commands that arrive on the control socket.

Input: the requests of `report/control.py` as plain values. Output: what was done, or an exception that says why not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace

from reconciler.config.load import Config
from reconciler.config.syntax.config_files import Found
from reconciler.core.overlay import NoSuchTunnelError, matching
from reconciler.core.spec import TunnelSpec
from reconciler.core.status import TunnelStatus
from reconciler.core.text.forms import and_more, phase_text
from reconciler.core.text.progress import Progress, matches
from reconciler.report.control import WaitFailedError
from reconciler.report.events import Event, Events
from reconciler.report.snapshot import Json, Snapshot, iso
from reconciler.runtime.app import App
from reconciler.runtime.diagnose import Step, diagnose
from reconciler.runtime.engine import EngineClosedError
from reconciler.runtime.operations import Operations
from reconciler.runtime.plan_report import report_plan

_SHOWN = 3
_SET_IT = "set it in the environment of `tunnels run`, or give a default: ${NAME:-value}"


class Commands:
    """The commands on one running `App`. Implements `report.control.CommandHandler`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._engine = app.engine
        self._operations = Operations(app.engine, "an operator")

    @property
    def events(self) -> Events[Event]:
        return self._app.events

    def snapshot(self) -> Snapshot:
        return self._app.snapshot()

    def connections(self) -> list[Json]:
        return [
            {
                "id": str(connection.id),
                "tunnel": connection.tunnel.id,
                "from": connection.origin or None,
                "to": connection.to,
                "user": connection.user or None,
                "since": iso(connection.since),
                "bytesSent": connection.sent,
                "bytesReceived": connection.received,
                "link": connection.link.number if connection.link is not None else None,
                "state": "held" if connection.link is None else "live",
            }
            for connection in self._engine.actuator.connections()
        ]

    # --- restart, pause, resume --------------------------------------------------------------------------------

    def restart(self, ids: Sequence[str], *, now: bool) -> list[str]:
        return _ids(self._operations.restart(ids, now=now))

    def pause(self, ids: Sequence[str], seconds: float | None) -> list[str]:
        return _ids(self._operations.pause(ids, seconds))

    def resume(self, ids: Sequence[str]) -> list[str]:
        return _ids(self._operations.resume(ids))

    # --- files -------------------------------------------------------------------------------------------------

    async def reload(self) -> Json:
        loaded = await asyncio.shield(self._app.load(requested=True))
        return {"valid": loaded.valid, "revision": loaded.revision, "errors": list(map(str, loaded.errors))}

    async def plan(self, files: Sequence[tuple[str, str, str]], *, strict: bool) -> Json:
        """Return the actions that these files would cause now. `strict`: warnings are errors."""
        found = [Found(name, directory, text.encode("utf-8", "surrogatepass")) for name, directory, text in files]
        ours = self._app.config
        options = replace(ours.options, strict=strict or ours.options.strict)
        config = Config(environ=ours.environ, options=options, policy=ours.policy)
        loaded = await asyncio.to_thread(config.load, found)
        problems: Json = {"errors": list(map(str, loaded.errors)), "warnings": list(map(str, loaded.warnings))}
        if not loaded.valid:
            return {**problems, "actions": [], "clients": 0}
        observed, desired = self._engine.actuator.observe(), self._engine.with_overlay(loaded.desired)
        plan = await asyncio.to_thread(report_plan, self._engine.desired, desired, observed, self._engine.loop.now())
        return {**problems, "actions": [step.to_json() for step in plan.steps], "clients": plan.clients}

    # --- waiting -----------------------------------------------------------------------------------------------

    async def wait(
        self, revision: str, ids: Sequence[str], seconds: float, show: Callable[[str], None] = lambda _: None
    ) -> None:
        """Wait until these tunnels (all, if none is named) are up and that revision is loaded and converged.

        Gives up as soon as a retry helps none of the missing tunnels. `show` is called with the progress.
        """
        why = ""

        def is_done() -> bool:
            nonlocal why
            why = self._not_yet(revision, ids, show)
            return not why

        try:
            if not await self._engine.until(is_done, seconds):
                raise WaitFailedError(408, f"timed out after {seconds:g} s: {why}")
        except EngineClosedError:
            raise WaitFailedError(503, "the process has ended") from None

    def _not_yet(self, revision: str, ids: Sequence[str], show: Callable[[str], None]) -> str:
        if self._app.is_ending:
            return "the process is ending"
        loaded, status = self._app.loaded, self._engine.status
        if loaded is None or status is None:
            return "the process is starting"
        if revision and loaded.rejected == revision:
            raise WaitFailedError(409, f"revision {revision} was rejected: {'; '.join(map(str, loaded.errors))}")
        if revision and loaded.revision != revision:
            return f"revision {revision} is not loaded: the loaded revision is {loaded.revision or 'none'}"
        if not self._engine.is_status_current or (revision and not self._engine.settled):
            return "the process is converging"
        for pattern in ids:
            if not any(matches(tunnel.id, [pattern]) for tunnel in status.tunnels):
                matching([pattern], self._engine.desired)  # raises unless the next pass adds the tunnel to the status
                return f"{pattern} does not exist yet"
        progress = Progress.of(((one.id, one.verdict.phase, one.verdict.needs_action) for one in status.tunnels), ids)
        if not progress.missing:
            return ""
        show(str(progress))
        by_id = {one.id: one for one in status.tunnels}
        waiting = and_more([_condition(by_id[missing]) for missing in progress.missing], _SHOWN, "; ")
        if progress.is_hopeless:
            raise WaitFailedError(409, f"no retry helps until this is fixed: {waiting}")
        return waiting

    # --- diagnosing --------------------------------------------------------------------------------------------

    async def diagnose(self, tunnel: str) -> Json:
        [spec, *others] = self._operations.matching([tunnel])
        if others:
            names = ", ".join(one.id for one in (spec, *others[: _SHOWN - 1]))
            raise NoSuchTunnelError(f"'{tunnel}' matches several tunnels ({names}): diagnose one at a time")
        broken = self._app.loaded.broken if self._app.loaded is not None else {}
        if why := broken.get(spec.target) or broken.get(spec.id):
            return {"steps": [asdict(Step("file", ok=False, detail=why, fix=_SET_IT))]}
        steps = await diagnose(spec, self._engine)
        return {"steps": [asdict(step) | {"fix": step.fix or None} for step in steps]}


def _ids(tunnels: Iterable[TunnelSpec]) -> list[str]:
    return [tunnel.id for tunnel in tunnels]


def _condition(tunnel: TunnelStatus) -> str:
    verdict = tunnel.verdict
    return f"{tunnel.id} is {phase_text(verdict.phase, verdict.reason, verdict.message)}"
