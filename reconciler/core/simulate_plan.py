"""What an edit will do, before it is done: planning and applying by turns, in a simulated world.

In: what is asked for, and the world as it is. Out: the steps in order, each with whom of the live clients it touches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.core.actions import Action
from reconciler.core.observed import LinkPhase, Now, Observed
from reconciler.core.plan import make_plan
from reconciler.core.simulate import Client, ImpossibleError, Simulator
from reconciler.core.spec import Desired

MAX_PASSES = 100  # a plan settles in three or four; more than this is a planner that contradicts itself


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """A step, and whom of the live clients it touches."""

    action: Action
    clients: frozenset[Client]


def simulate_plan(desired: Desired, observed: Observed, now: Now) -> tuple[SimulatedStep, ...]:
    """All steps from `observed` to `desired`, in order, if each succeeds at once and no time passes.

    What waits for its next try is tried now, but for a connection that is to replace one that goes on: that it was
    refused is no difference that these files make. Clients who drain are still there at the end.
    """
    up = {link.target for link in observed.links if link.phase is LinkPhase.READY}
    tries = {name: tries for name, tries in observed.link_tries.items() if name in up}
    world = Simulator(replace(observed, link_tries=tries, socket_tries={}), now, kind=True)
    return apply_until_settled(world, desired)


def converge(world: Simulator, desired: Desired) -> tuple[Action, ...]:
    """Plan and apply until nothing is left to do now. Returns the steps taken; raises ImpossibleError if it goes on."""
    return tuple(step.action for step in apply_until_settled(world, desired))


def apply_until_settled(world: Simulator, desired: Desired) -> tuple[SimulatedStep, ...]:
    """The same, with whom each step touches."""
    world.set_desired(desired)
    done: list[SimulatedStep] = []
    for _ in range(MAX_PASSES):
        actions = make_plan(desired, world.observe(), world.now()).actions
        if not actions:
            return tuple(done)
        for action in actions:
            world.apply(action)
            done.append(SimulatedStep(action, world.touched))
        world.check()
    raise ImpossibleError(f"it does not settle: after {MAX_PASSES} passes it still asks for {done[-1].action}")
