"""The engine: keeps the tunnels of a configuration up. The daemon and the Python API each run one.

Owns the reconcile loop, the actuator and the run-time state: restarts, pauses, the shard. Input: the configuration, and
commands. Output: after each pass the status and the observed state, and events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from reconciler.core.actions import Assign, subject_of
from reconciler.core.descriptor_budget import Budget
from reconciler.core.observed import EMPTY, Now, Observed, Reason
from reconciler.core.overlay import Overlay
from reconciler.core.plan import Plan
from reconciler.core.shard import Shard
from reconciler.core.spec import NOTHING, Desired, TunnelSpec
from reconciler.core.status import Status, make_status, unsettled_targets
from reconciler.core.subject import Subject
from reconciler.probes import PROBES
from reconciler.report.change_lines import alike_text
from reconciler.report.events import Event
from reconciler.runtime.background import forever
from reconciler.runtime.loop import Loop, SystemClock
from reconciler.runtime.probe_restart_policy import is_restart_due
from reconciler.ssh.actuator import SshActuator
from reconciler.ssh.clients.connection_registry import Audit
from reconciler.system.fault_log import FaultLog

log = logging.getLogger(__name__)

_NONE_BROKEN: Mapping[str, str] = MappingProxyType({})


class EngineClosedError(Exception):
    """The engine was closed during a wait."""


class Engine:
    """Keeps the tunnels matching the configuration while `run` runs. Must be created inside its event loop.

    environ    environment variables, for secrets that the configuration names as variables
    shard      the part of the targets to serve, None for all
    budget     of file descriptors; default: the budget of the process as it is now
    on_pass    called after each pass with the observed state it planned from, the plan and the time
    on_event   called with each event that is not a change of the status: commands, clients cut by an edit
    audit      called when an audited client connection opens and when it ends

    `status` and `observed` are those of the last pass; `status` is None before the first one.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        shard: Shard | None = None,
        budget: Budget | None = None,
        on_pass: Callable[[Observed, Plan, Now], None] = lambda _observed, _plan, _now: None,
        on_event: Callable[[Event], None] = lambda _event: None,
        audit: Audit | None = None,
    ) -> None:
        self.environ = environ
        self.fault_log = FaultLog()
        self.loop = Loop(SystemClock(), self._passed, failed=self._action_failed, fault_log=self.fault_log)
        self.actuator = SshActuator(
            environ,
            PROBES,
            budget=budget,
            changed=self.loop.wake,
            failing=self._probe_failed,
            audit=audit,
            cut=self.record_cut,
            fault_log=self.fault_log,
        )
        self.status: Status | None = None
        self.observed: Observed = EMPTY
        self._on_pass = on_pass
        self._on_event = on_event
        self._overlay = Overlay(shard)
        self._configured: Desired = NOTHING
        self._broken: Mapping[str, str] = _NONE_BROKEN
        self._why_removed = "removed"
        self._removed: Mapping[str, TunnelSpec] = {}  # removed tunnels that still have clients
        self._planned_for: Desired = NOTHING  # the desired state of the last pass
        self._unsettled: frozenset[str] = frozenset()  # the targets with something in progress after the last pass
        self._next_pass = asyncio.Event()
        self._is_closed = False

    # --- life --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled. An exception means that the reconcile loop itself failed."""
        maintenance = asyncio.create_task(
            forever(self.actuator.maintain, "maintaining the links", self.fault_log), name="actuator maintenance"
        )
        try:
            await self.loop.run(self.actuator)
        finally:
            maintenance.cancel()
            await asyncio.gather(maintenance, return_exceptions=True)

    async def close(self) -> None:
        """Close everything now, without draining. Call it when `run` has ended."""
        self._is_closed = True
        self._next_pass.set()
        await self.actuator.close()

    async def passed(self) -> bool:
        """Return after the next pass: True, or False if there will be none."""
        await self._next_pass.wait()
        return not self._is_closed

    async def until(self, is_done: Callable[[], bool], seconds: float) -> bool:
        """Call `is_done` now and after each pass until it returns True. Return False if that takes `seconds`.

        Raises EngineClosedError.
        """
        try:
            async with asyncio.timeout(seconds):
                while not is_done():
                    if not await self.passed():
                        raise EngineClosedError
        except TimeoutError:
            return False
        return True

    # --- desired state -----------------------------------------------------------------------------------------

    @property
    def shard(self) -> Shard | None:
        """The part of the targets that this process serves, None for all."""
        return self._overlay.shard

    @property
    def desired(self) -> Desired:
        """The configuration with restarts, pauses and shard applied."""
        return self.loop.desired

    def configure(self, desired: Desired, broken: Mapping[str, str] = _NONE_BROKEN) -> None:
        """Reconcile towards this configuration. `broken`: what an unset variable keeps off, with the message."""
        self._configured, self._broken = desired, broken
        self._apply()

    def stop(self) -> None:
        """Accept no more clients, and drain the live ones."""
        self._why_removed = "the process is ending"
        self.configure(NOTHING)

    def with_overlay(self, configured: Desired) -> Desired:
        """Return the desired state that `configure` would make of this configuration."""
        return self._overlay.over(configured).sharing(self.desired)

    def restart(self, targets: Iterable[str], why: str) -> None:
        """Replace the links of targets, make before break."""
        for target in targets:
            self._overlay.restart(target)
            log.info("target %s is restarted: %s", target, why, extra={"target": target})
            self._on_event(Event(time.time(), Subject("target", target), "restarted", message=why))
        self._apply()

    def pause(self, tunnels: Iterable[str], until: float | None, why: str) -> None:
        """Turn tunnels off until `until` (Unix time), or until they are resumed. `configure` does not resume them."""
        tunnels = tuple(tunnels)
        self._overlay.pause(tunnels, until)
        self._record(tunnels, "paused", why)
        self._apply()

    def resume(self, tunnels: Iterable[str], why: str) -> None:
        """End the pauses of these tunnels."""
        tunnels = tuple(tunnels)
        self._overlay.resume(tunnels)
        self._record(tunnels, "resumed", why)
        self._apply()

    def _apply(self) -> None:
        self.loop.set_desired(self._overlay.over(self._configured))

    def _record(self, tunnels: Iterable[str], what: str, why: str) -> None:
        """Add an event for each tunnel, and a log line for the tunnels of each target."""
        by_target: dict[str, list[str]] = {}
        for tunnel in tunnels:
            subject = Subject("tunnel", tunnel)
            by_target.setdefault(subject.target, []).append(tunnel)
            self._on_event(Event(time.time(), subject, what, message=why))
        for target, ids in by_target.items():
            fields = {"target": target, "tunnel": ids[0]} if len(ids) == 1 else {"target": target, "tunnels": ids}
            log.info("%s", alike_text(ids, f"{what}: {why}"), extra=fields)

    # --- after each pass ---------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """True if the desired state needs no action now, except to wait or to retry."""
        return self.is_status_current and not self._unsettled

    def are_settled(self, targets: Collection[str]) -> bool:
        """Return True if these targets and their tunnels need no action now, except to wait or to retry."""
        return self.is_status_current and self._unsettled.isdisjoint(targets)

    @property
    def is_status_current(self) -> bool:
        """True if the status was made for the present desired state, not for the one before an edit."""
        return self._planned_for is self.desired

    def _passed(self, desired: Desired, planned_from: Observed, plan: Plan, now: Now) -> None:
        try:
            if over := self._overlay.over_by(now.wall):
                self.resume(over, "the pause has expired")
            self._update_status(desired, planned_from, plan, now)
            self._on_pass(planned_from, plan, now)
        finally:
            self._next_pass.set()
            self._next_pass = asyncio.Event()

    def _update_status(self, desired: Desired, planned_from: Observed, plan: Plan, now: Now) -> None:
        # After an `Assign`, report the state after the handover: no tunnel is down while two tunnels swap ports or one
        # is renamed.
        handed_over = any(isinstance(action, Assign) for action in plan.actions)
        observed = planned_from
        if handed_over:
            observed = replace(self.actuator.observe(), faults=planned_from.faults)
        self._note_removed(desired, observed)
        self.status = make_status(desired, observed, now, self._broken, self._removed.values(), self._why_removed)
        self.observed = observed
        acted_on = (subject_of(action).target for action in plan.actions)
        self._unsettled = frozenset(unsettled_targets(desired, observed).union(acted_on))

    def _note_removed(self, desired: Desired, observed: Observed) -> None:
        """Remember removed tunnels as long as they have clients."""
        if desired is self._planned_for and not self._removed:
            return
        busy = {flow.key.tunnel for flow in observed.flows}
        before = (*self._removed.values(), *self._planned_for.tunnels.values())
        self._removed = {gone.id: gone for gone in before if gone.id in busy and gone.id not in desired.tunnels}
        self._planned_for = desired

    # --- callbacks of the loop and the actuator ----------------------------------------------------------------

    def _action_failed(self, subject: Subject) -> None:
        """Count an action on this target or tunnel that raised."""
        records = self.actuator.records
        record = records.tunnel(subject.name) if subject.tunnel else records.target(subject.name)
        record.failures[Reason.INTERNAL] += 1

    def _probe_failed(self, tunnel: TunnelSpec) -> None:
        """Restart the target of a tunnel whose failing probe may replace the link, if the policy allows it."""
        if is_restart_due(tunnel, self.actuator.records, self.loop.now().mono):
            self.restart([tunnel.target], f"the health probe of tunnel {tunnel.id} fails")

    def record_cut(self, tunnel: TunnelSpec, why: str) -> None:
        """Add an event: clients of this tunnel were cut."""
        self._on_event(Event(time.time(), Subject("tunnel", tunnel.id), "cut", message=why))
