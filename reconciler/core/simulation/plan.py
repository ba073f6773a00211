"""The effect of an edit before it is applied: plan and apply in turn against a simulator.

Input: the desired state and the observed state. Output: the actions in order, each with the live clients it affects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.core.actions import Action
from reconciler.core.observed import LinkPhase, Now, Observed
from reconciler.core.plan import make_plan
from reconciler.core.simulation.clients import Client
from reconciler.core.simulation.impossible import ImpossibleError
from reconciler.core.simulation.simulator import Simulator
from reconciler.core.spec import Desired

MAX_PASSES = 100  # a plan settles in three or four passes; a planner that needs more contradicts itself


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """An action and the live clients that it affects."""

    action: Action
    clients: frozenset[Client]


def simulate_plan(desired: Desired, observed: Observed, now: Now) -> tuple[SimulatedStep, ...]:
    """Return all actions from `observed` to `desired`, in order, if each succeeds at once and no time passes.

    Backoff is ignored, except for a connection that replaces one still in service: its earlier failure is not an effect
    of this edit. Draining clients remain until the end.
    """
    up = {link.target for link in observed.links if link.phase is LinkPhase.READY}
    tries = {name: tries for name, tries in observed.link_tries.items() if name in up}
    simulator = Simulator(replace(observed, link_tries=tries, socket_tries={}), now, instant=True)
    return apply_until_settled(simulator, desired)


def converge(simulator: Simulator, desired: Desired) -> tuple[Action, ...]:
    """Plan and apply until no action is due. Return the actions. Raises ImpossibleError if the planner never stops."""
    return tuple(step.action for step in apply_until_settled(simulator, desired))


def apply_until_settled(simulator: Simulator, desired: Desired) -> tuple[SimulatedStep, ...]:
    """Do the same as `converge`, and return the affected clients with each action."""
    simulator.set_desired(desired)
    done: list[SimulatedStep] = []
    for _ in range(MAX_PASSES):
        actions = make_plan(desired, simulator.observe(), simulator.now()).actions
        if not actions:
            return tuple(done)
        for action in actions:
            simulator.apply(action)
            done.append(SimulatedStep(action, simulator.touched))
        simulator.check()
    raise ImpossibleError(f"the plan does not settle: after {MAX_PASSES} passes it still asks for {done[-1].action}")
