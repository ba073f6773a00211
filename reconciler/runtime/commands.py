"""Carries out the commands that arrive on the control socket.

Input: the requests of `report/control.py` as plain values. Output: what was done, or an exception that says why not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from reconciler.config.load import Config
from reconciler.config.syntax.config_files import Found
from reconciler.core.observed import Phase
from reconciler.core.overlay import NoSuchTunnelError, matches, matching
from reconciler.core.spec import TunnelSpec
from reconciler.core.status import TunnelStatus
from reconciler.core.subject import Subject
from reconciler.core.text.forms import and_more, phase_text, progress
from reconciler.report.control import WaitFailedError
from reconciler.report.events import Event, Events
from reconciler.report.snapshot import NOT_EXPECTED_UP, Json, Snapshot, iso
from reconciler.runtime.app import App
from reconciler.runtime.diagnose import Step, diagnose
from reconciler.runtime.plan_report import report_plan

_BY_OPERATOR = "requested by an operator"
_SHOWN = 3
_SET_IT = "set it in the environment of `tunnels run`, or give a default: ${NAME:-value}"


class Commands:
    """The commands on one running `App`. Implements `report.control.CommandHandler`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._engine = app.engine

    @property
    def events(self) -> Events:
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
        """Replace the links of the targets of these tunnels. With `now`, cut the clients of the named tunnels.

        With `now`, a target also loses its old link immediately if all of its tunnels are named. Return the ids of
        all tunnels of these targets.
        """
        named = self._matching(ids)
        targets = list(dict.fromkeys(tunnel.target for tunnel in named))
        affected = [tunnel for tunnel in self._engine.desired.tunnels.values() if tunnel.target in targets]
        self._engine.restart(targets, f"{_BY_OPERATOR}{', immediately' if now else ''}")
        if now:
            for target in targets:
                if all(tunnel in named for tunnel in affected if tunnel.target == target):
                    self._engine.actuator.retire_now(target)
            for tunnel in named:
                self._engine.actuator.cut("the tunnel was restarted by an operator", tunnel=tunnel.id)
                self.events.add(Event(time.time(), Subject("tunnel", tunnel.id), "cut", message=_BY_OPERATOR))
        return [tunnel.id for tunnel in affected]

    def pause(self, ids: Sequence[str], seconds: float | None) -> list[str]:
        done = [tunnel.id for tunnel in self._matching(ids)]
        until = time.time() + seconds if seconds is not None else None
        self._engine.pause(done, until, f"{_BY_OPERATOR}, until {iso(until)}" if until is not None else _BY_OPERATOR)
        return done

    def resume(self, ids: Sequence[str]) -> list[str]:
        done = [tunnel.id for tunnel in self._matching(ids)]
        self._engine.resume(done, _BY_OPERATOR)
        return done

    def _matching(self, ids: Sequence[str]) -> list[TunnelSpec]:
        return matching(ids, self._engine.desired)

    # --- files -------------------------------------------------------------------------------------------------

    async def reload(self) -> Json:
        loaded = await asyncio.shield(self._app.load(requested=True))
        return {"valid": loaded.valid, "revision": loaded.revision, "errors": list(map(str, loaded.errors))}

    async def plan(self, files: Sequence[tuple[str, str, str]], *, strict: bool) -> Json:
        """Return the actions that these files would cause now. `strict`: warnings are errors."""
        found = [Found(name, directory, text.encode("utf-8", "surrogatepass")) for name, directory, text in files]
        ours = self._app.config
        options = replace(ours.options, strict=strict or ours.options.strict)
        loaded = await asyncio.to_thread(Config(environ=ours.environ, options=options).load, found)
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
        try:
            async with asyncio.timeout(seconds):
                while why := self._not_yet(revision, ids, show):
                    if not await self._engine.passed():
                        raise WaitFailedError(503, "the process has ended")
        except TimeoutError:
            raise WaitFailedError(408, f"timed out after {seconds:g} s: {why}") from None

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
            if not any(matches(tunnel.spec, [pattern]) for tunnel in status.tunnels):
                matching([pattern], self._engine.desired)  # raises unless the next pass adds the tunnel to the status
                return f"{pattern} does not exist yet"
        awaited = [one for one in status.tunnels if _is_awaited(one, ids)]
        waiting = [
            f"{one.id} is {phase_text(one.verdict.phase, one.verdict.reason, one.verdict.message)}" for one in awaited
        ]
        if awaited:
            up = sum(t.verdict.phase is Phase.UP for t in status.tunnels if not ids or matches(t.spec, ids))
            show(progress(up, [one.id for one in awaited]))
        if awaited and all(one.verdict.needs_action for one in awaited):
            raise WaitFailedError(409, f"no retry helps until this is fixed: {and_more(waiting, _SHOWN, '; ')}")
        return and_more(waiting, _SHOWN, "; ")

    # --- diagnosing --------------------------------------------------------------------------------------------

    async def diagnose(self, tunnel: str) -> Json:
        [spec, *others] = self._matching([tunnel])
        if others:
            names = ", ".join(one.id for one in (spec, *others[: _SHOWN - 1]))
            raise NoSuchTunnelError(f"'{tunnel}' matches several tunnels ({names}): diagnose one at a time")
        if self._app.loaded is not None and (why := self._app.loaded.broken.get(spec.target)):
            return {"steps": [asdict(Step("file", ok=False, detail=why, fix=_SET_IT))]}
        steps = await diagnose(spec, self._engine)
        return {"steps": [asdict(step) | {"fix": step.fix or None} for step in steps]}


def _is_awaited(tunnel: TunnelStatus, ids: Sequence[str]) -> bool:
    """Return True if `wait` waits for this tunnel. A tunnel that is off counts only if `ids` has its full id."""
    phase = tunnel.verdict.phase
    if phase is Phase.UP or (ids and not matches(tunnel.spec, ids)):
        return False
    return tunnel.id in ids if phase is Phase.OFF else phase not in NOT_EXPECTED_UP
