"""What people may ask of the running process, carried out: the meaning behind the control socket.

In: the requests of `report.control`, as plain values. Out: what was done, or the sentence why not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from reconciler.config.load import Config
from reconciler.config.syntax.config_files import Found
from reconciler.core.observed import Now, Observed, Phase
from reconciler.core.overlay import NoSuchTunnelError, matches, matching
from reconciler.core.simulation.plan import simulate_plan
from reconciler.core.spec import Desired, TunnelSpec
from reconciler.core.status import TunnelStatus
from reconciler.report.control import WaitFailedError
from reconciler.report.events import Event, Events
from reconciler.report.snapshot import NOT_ASKED, Json, Snapshot, iso
from reconciler.runtime import plan_report
from reconciler.runtime.app import App
from reconciler.runtime.diagnose import Step, diagnose

_BY_PERSON = "asked for by a person"
_SHOWN = 3
_SET_IT = "set it where `tunnels run` is started, or give a default: ${NAME:-value}"


class Orders:
    """See the module."""

    def __init__(self, app: App) -> None:
        self._app = app

    @property
    def events(self) -> Events:
        return self._app.events

    def snapshot(self) -> Snapshot:
        return self._app.snapshot()

    def connections(self) -> list[Json]:
        return [
            {
                "id": str(client.id),
                "tunnel": client.tunnel,
                "from": client.origin or None,
                "to": client.to,
                "user": client.user or None,
                "since": iso(client.since),
                "bytesSent": client.sent,
                "bytesReceived": client.received,
                "link": client.link,
                "state": "held" if client.link is None else "live",
            }
            for client in self._app.actuator.connections()
        ]

    # --- restart, pause, resume --------------------------------------------------------------------------------

    def restart(self, ids: Sequence[str], *, now: bool) -> list[str]:
        """Give the targets of these tunnels new connections; with `now`, cut the clients of the tunnels named.

        A target all of whose tunnels are named loses its old connection at once, whatever that means for it.
        """
        named = self._meant(ids)
        targets = list(dict.fromkeys(tunnel.target for tunnel in named))
        affected = [tunnel for tunnel in self._app.loop.desired.tunnels.values() if tunnel.target in targets]
        self._app.restart(targets, f"{_BY_PERSON}{', at once' if now else ''}")
        if now:
            for target in targets:
                if all(tunnel in named for tunnel in affected if tunnel.target == target):
                    self._app.actuator.retire_now(target)
            for tunnel in named:
                self._app.actuator.cut("the tunnel was restarted by a person", tunnel=tunnel.id)
                self.events.tell(Event(time.time(), f"tunnel {tunnel.id}", "cut", message=_BY_PERSON))
        return [tunnel.id for tunnel in affected]

    def pause(self, ids: Sequence[str], seconds: float | None) -> list[str]:
        done = [tunnel.id for tunnel in self._meant(ids)]
        until = time.time() + seconds if seconds is not None else None
        self._app.pause(done, until, f"{_BY_PERSON}, until {iso(until)}" if until is not None else _BY_PERSON)
        return done

    def resume(self, ids: Sequence[str]) -> list[str]:
        done = [tunnel.id for tunnel in self._meant(ids)]
        self._app.resume(done, _BY_PERSON)
        return done

    def _meant(self, ids: Sequence[str]) -> list[TunnelSpec]:
        return matching(ids, self._app.loop.desired)

    # --- files -------------------------------------------------------------------------------------------------

    async def reload(self) -> Json:
        loaded = await asyncio.shield(self._app.load(asked=True))
        return {"valid": loaded.valid, "revision": loaded.revision, "errors": list(map(str, loaded.errors))}

    async def plan(self, files: Sequence[tuple[str, str, str]], *, strict: bool) -> Json:
        """What these files would do to what is there now. `strict`: their warnings are errors."""
        found = [Found(name, directory, text.encode("utf-8", "surrogatepass")) for name, directory, text in files]
        ours = self._app.config
        options = replace(ours.options, strict=strict or ours.options.strict)
        loaded = await asyncio.to_thread(Config(environ=ours.environ, options=options).load, found)
        told: Json = {"errors": list(map(str, loaded.errors)), "warnings": list(map(str, loaded.warnings))}
        if not loaded.valid:
            return {**told, "actions": [], "clients": 0}
        observed, desired = self._app.actuator.observe(), self._app.over(loaded.desired)
        plan = await asyncio.to_thread(_planned, self._app.loop.desired, desired, observed, self._app.loop.now())
        return {**told, "actions": [asdict(step) for step in plan.steps], "clients": plan.clients}

    # --- waiting -----------------------------------------------------------------------------------------------

    async def wait(self, revision: str, ids: Sequence[str], seconds: float) -> None:
        """Until these (all, if none is named) are up, and that revision is loaded and converged."""
        why = ""
        try:
            async with asyncio.timeout(seconds):
                while why := self._not_yet(revision, ids):
                    if not await self._app.passed():
                        raise WaitFailedError(503, "it has ended")
        except TimeoutError:
            raise WaitFailedError(408, f"not within {seconds:g} s: {why}") from None

    def _not_yet(self, revision: str, ids: Sequence[str]) -> str:
        if self._app.is_ending:
            return "it is ending"
        loaded, judgement = self._app.loaded, self._app.judgement
        if loaded is None or judgement is None:
            return "it is starting"
        if revision and loaded.rejected == revision:
            raise WaitFailedError(409, f"{revision} was rejected: {'; '.join(map(str, loaded.errors))}")
        if revision and loaded.revision != revision:
            return f"{revision} is not loaded, but {loaded.revision or 'nothing'}"
        if not self._app.judged or (revision and not self._app.settled):
            return "it is converging"
        for pattern in ids:
            if not any(matches(tunnel.spec, [pattern]) for tunnel in judgement.tunnels):
                matching([pattern], self._app.loop.desired)  # raises, unless it is just about to be there
                return f"{pattern} is not there yet"
        waiting = [one for one in judgement.tunnels if _is_awaited(one, ids)]
        more = f"; and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
        return "; ".join(map(_sentence, waiting[:_SHOWN])) + more

    # --- diagnosing --------------------------------------------------------------------------------------------

    async def diagnose(self, tunnel: str) -> Json:
        [spec, *others] = self._meant([tunnel])
        if others:
            names = ", ".join(one.id for one in (spec, *others[: _SHOWN - 1]))
            raise NoSuchTunnelError(f"'{tunnel}' names several tunnels ({names}): diagnose one at a time")
        target = self._app.loop.desired.targets[spec.target]
        if self._app.loaded is not None and (why := self._app.loaded.broken.get(target.name)):
            return {"steps": [asdict(Step("file", ok=False, detail=why, fix=_SET_IT))]}
        steps = await diagnose(spec, target, self._app.actuator, self._app.loop.now, self._app.config.environ)
        return {"steps": [asdict(step) | {"fix": step.fix or None} for step in steps]}


def _is_awaited(tunnel: TunnelStatus, ids: Sequence[str]) -> bool:
    """Whether it is among those waited for and not up. One that is off is waited for only if it is named in full."""
    phase = tunnel.verdict.phase
    if phase is Phase.UP or (ids and not matches(tunnel.spec, ids)):
        return False
    return tunnel.id in ids if phase is Phase.OFF else phase not in NOT_ASKED


def _sentence(tunnel: TunnelStatus) -> str:
    verdict = tunnel.verdict
    reason = f" ({verdict.reason})" if verdict.reason is not None else ""
    return f"{tunnel.id} is {verdict.phase}{reason}" + (f": {verdict.message}" if verdict.message else "")


def _planned(old: Desired, new: Desired, observed: Observed, now: Now) -> plan_report.PlanReport:
    return plan_report.plan_report(simulate_plan(new, observed, now), observed, old, new)
