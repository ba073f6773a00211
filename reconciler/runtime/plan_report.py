"""Describes a plan: what each action does, to which target or tunnel, why, and how many live clients it affects.

Serves `tunnels plan`, for a running process and for two sets of files. The actions are the planner's own, carried out
in the simulator. Changes of a tunnel or target are named field by field, with the field names and values of the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from reconciler.core.actions import ACCESS_CHANGED, Assign, Close, Dial, Open, Tune, subject_of
from reconciler.core.observed import EMPTY, Now, Observed
from reconciler.core.plan import is_wanted
from reconciler.core.simulation.clients import Client
from reconciler.core.simulation.plan import SimulatedStep, converge, simulate_edit
from reconciler.core.simulation.simulator import Simulator
from reconciler.core.spec import Desired, TargetSettings, TargetSpec
from reconciler.core.subject import Subject
from reconciler.report.snapshot import Json
from reconciler.runtime.changed_fields import target_changes, tunnel_changes


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step. `action` is the name of an action in lower case.

    `clients`: how many live clients it drains, cuts (also by a changed rule) or moves to another link. `changes`: the
    changed fields of the target or tunnel, each as text (`holdTimeout 10s -> 30s`); `why` names them too, except where
    a tunnel gets another listener. `previous`: the tunnel that had the listener before, "" if there is none.
    """

    action: str
    subject: Subject
    why: str
    clients: int
    changes: tuple[str, ...] = ()
    previous: str = ""

    def to_json(self) -> Json:
        return {
            "action": self.action,
            "subject": str(self.subject),
            "why": self.why,
            "clients": self.clients,
            "changes": list(self.changes),
        }


@dataclass(frozen=True, slots=True)
class PlanReport:
    """The steps in order. `clients`: how many live clients all steps affect, each counted once."""

    steps: tuple[PlanStep, ...]
    clients: int


def between(old: Desired, new: Desired) -> PlanReport:
    """Report what a process that has converged on `old` and has no clients would do with `new`."""
    now = Now(0.0, time.time())
    world = Simulator(EMPTY, now, instant=True)
    converge(world, old)
    return report_plan(old, new, world.observe(), now)


def report_plan(old: Desired, new: Desired, observed: Observed, now: Now) -> PlanReport:
    """Report what a process that works towards `old` would do with `new`, and would not do with `old`."""
    steps: list[PlanStep] = []
    affected: set[Client] = set()
    simulated = simulate_edit(old, new, observed, now)
    for step in simulated:
        affected |= step.clients
        why, changes = _why(step, old, new, observed, now.wall)
        text = f"{why}: {', '.join(changes)}" if changes and not isinstance(step.action, Open) else why
        name, subject = type(step.action).__name__.lower(), subject_of(step.action)
        previous = step.previous.id if step.previous is not None and step.previous.id != subject.name else ""
        steps.append(PlanStep(name, subject, text, len(step.clients), changes, previous))
    steps += _without_action(old, new, simulated, now.wall)
    return PlanReport(tuple(steps), len(affected))


# --- why ----------------------------------------------------------------------------------------------------------


def _why(
    step: SimulatedStep, old: Desired, new: Desired, observed: Observed, wall: float
) -> tuple[str, tuple[str, ...]]:
    """Return the reason for a step, and the changes of its target or tunnel that it applies."""
    action = step.action
    match action:
        case Assign(tunnel=tunnel):
            before = old.tunnels.get(tunnel.id)
            if before is None or not is_wanted(before, old, wall):
                before = step.previous  # the tunnel was renamed
            return action.why, tunnel_changes(before, tunnel) if before is not None else ()
        case Open(tunnel=tunnel) if tunnel.id in old.tunnels:
            return action.why, tunnel_changes(old.tunnels[tunnel.id], tunnel)
        case Close(key=key) if key not in observed.sockets:
            return "no tunnel needs it; it is not open yet", ()
        case Tune(target=name, settings=settings) if name in old.targets and name in new.targets:
            before_target = old.targets[name]
            # Without a difference, only timeouts of jump hosts changed: `Dial` reports them.
            after_target = replace(before_target, settings=_fitting(settings, before_target))
            return action.why, target_changes(before_target, after_target)
        case Dial(target=target) if target.name in old.targets and old.targets[target.name].access != target.access:
            before_target = old.targets[target.name]
            after_target = replace(
                before_target, access=target.access, settings=_fitting(before_target.settings, target)
            )
            return ACCESS_CHANGED, target_changes(before_target, after_target)
        case _:
            return action.why, ()


def _without_action(old: Desired, new: Desired, simulated: Iterable[SimulatedStep], wall: float) -> Iterator[PlanStep]:
    """Yield a step for each target with a change that needs no action now.

    For example the number of connections, or the host of a target that is connected on demand and is not in use.
    """
    dialled, tuned = set[str](), set[str]()
    for step in simulated:
        match step.action:
            case Dial(target=target):
                dialled.add(target.name)
            case Tune(target=name):
                tuned.add(name)
            case _:
                pass
    in_use = _targets_in_use(old, wall) & _targets_in_use(new, wall)
    for name in sorted(in_use):
        before, after = old.targets[name], new.targets[name]
        shape = before if name in dialled else after
        settings = _fitting((before if name in tuned else after).settings, shape)
        if changes := target_changes(before, replace(after, access=shape.access, settings=settings)):
            yield PlanStep("tune", Subject("target", name), f"its settings changed: {', '.join(changes)}", 0, changes)


def _targets_in_use(desired: Desired, wall: float) -> set[str]:
    return {tunnel.target for tunnel in desired.tunnels.values() if is_wanted(tunnel, desired, wall)}


def _fitting(settings: TargetSettings, target: TargetSpec) -> TargetSettings:
    """Return `settings` with one connect timeout for each hop of `target`, which may have other jump hosts."""
    timeouts = target.settings.connect_timeouts
    if len(timeouts) == len(settings.connect_timeouts):
        return settings
    return replace(settings, connect_timeouts=(*timeouts[:-1], settings.connect_timeouts[-1]))
