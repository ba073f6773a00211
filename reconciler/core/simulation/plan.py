"""The effect of an edit before it is applied: plan and apply in turn against a simulator.

Input: the desired states before and after the edit, and the observed state. Output: the actions in order, each with the
live clients it affects.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace

from reconciler.core.actions import Action, Assign, Cut, Drain, Move, Retire
from reconciler.core.observed import LinkPhase, Now, Observed, SocketKey, Tries
from reconciler.core.plan import make_plan
from reconciler.core.simulation.clients import Client
from reconciler.core.simulation.impossible import ImpossibleError
from reconciler.core.simulation.simulator import Simulator
from reconciler.core.spec import Desired, TunnelSpec

MAX_PASSES = 100  # a plan settles in three or four passes; a planner that needs more contradicts itself


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """An action and the live clients that it affects. `previous`: for Assign, the former owner of the listener."""

    action: Action
    clients: frozenset[Client]
    previous: TunnelSpec | None


def simulate_edit(old: Desired, new: Desired, observed: Observed, now: Now) -> tuple[SimulatedStep, ...]:
    """Return the actions of an edit from `old` to `new`, in order, if each succeeds at once and no time passes.

    The simulator reaches `old` first, so a retry, or a connection in progress, is not an action of the edit. It leaves
    out the end of links, listeners and clients that exist only in the simulator. Draining clients remain until the end.
    """
    up = {link.target for link in observed.links if link.phase is LinkPhase.READY}
    tries = {name: _never_due(tries) for name, tries in observed.link_tries.items() if name in up}
    simulator = Simulator(replace(observed, link_tries=tries, socket_tries={}), now, instant=True)
    converge(simulator, old)
    links = {link.id for link in observed.links}
    steps = apply_until_settled(simulator, new)
    return tuple(step for step in steps if _is_real(step.action, links, observed.sockets))


def _never_due(tries: Tries) -> Tries:
    """Return tries that are never due.

    Every dial in the simulator succeeds, so one that failed in reality would replace a link in service.
    """
    return replace(tries, at=math.inf, last=replace(tries.last, ends_at=None))


def _is_real(action: Action, links: Container[int], sockets: Container[SocketKey]) -> bool:
    """Return False for an action that ends or moves a link, a listener or clients that exist only in the simulator."""
    match action:
        case Retire(link=link):
            return link in links
        case Drain(flow=flow) | Cut(flow=flow):
            return flow.link in links
        case Move(key=key):
            return key in sockets
        case _:
            return True


def converge(simulator: Simulator, desired: Desired) -> tuple[Action, ...]:
    """Plan and apply until no action is due. Return the actions. Raises ImpossibleError if the planner never stops."""
    return tuple(step.action for step in apply_until_settled(simulator, desired))


def apply_until_settled(simulator: Simulator, desired: Desired) -> tuple[SimulatedStep, ...]:
    """Do the same as `converge`, and return the affected clients with each action."""
    simulator.set_desired(desired)
    done: list[SimulatedStep] = []
    for _ in range(MAX_PASSES):
        observed = simulator.observe()
        actions = make_plan(desired, observed, simulator.now()).actions
        if not actions:
            return tuple(done)
        for action in actions:
            simulator.apply(action)
            previous = observed.sockets[action.key].owner if isinstance(action, Assign) else None
            done.append(SimulatedStep(action, simulator.touched, previous))
        simulator.check()
    raise ImpossibleError(f"the plan does not settle: after {MAX_PASSES} passes it still asks for {done[-1].action}")
