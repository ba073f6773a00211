"""The planner: the next actions from observed to desired. Pure and level-triggered.

It identifies sockets by address, links by access, and flows by tunnel, address, route and link. A policy edit, a new
destination, a rename and two tunnels that swap ports are then one case: the socket exists, its owner differs
(`Assign`). The table in docs/architecture.md lists all cases.

Actions come in the order stop, change, start, so that an address is released before another tunnel opens it.
`Plan.wake_at` is the next time at which the passing of time alone would change the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.actions import Action
from reconciler.core.observed import Now, Observed
from reconciler.core.off import EXPIRED, NO_TARGET, Off
from reconciler.core.planner.draft import WALL_CHECK_EVERY, Draft
from reconciler.core.planner.flows import plan_flows
from reconciler.core.planner.links import plan_links
from reconciler.core.planner.sockets import plan_sockets
from reconciler.core.spec import Desired, TunnelSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions to carry out in order, and when to plan again if nothing happens (monotonic; inf for never)."""

    actions: tuple[Action, ...]
    wake_at: float


def make_plan(desired: Desired, observed: Observed, now: Now) -> Plan:
    """Return the next actions from `observed` towards `desired`, none if they agree."""
    draft = Draft(now)
    wanted = _wanted_tunnels(desired, draft)
    links = plan_links(desired, observed, wanted, draft)
    assigned = plan_sockets(desired, observed, wanted, links, draft)
    plan_flows(desired, observed, wanted, assigned, draft)
    return Plan((*draft.stop, *draft.change, *draft.start), draft.wake_at)


def why_off(tunnel: TunnelSpec, desired: Desired, wall: float) -> Off | None:
    """Return why the tunnel should not be live at that wall time, None if it should."""
    if tunnel.off is not None:
        return tunnel.off
    target = desired.targets.get(tunnel.target)
    if target is None or target.off is not None:
        return target.off if target is not None else NO_TARGET
    expires_at = tunnel.policy.expires_at
    return EXPIRED if expires_at is not None and expires_at <= wall else None


def is_wanted(tunnel: TunnelSpec, desired: Desired, wall: float) -> bool:
    """Return True if the tunnel should be live at that wall time."""
    return why_off(tunnel, desired, wall) is None


def _wanted_tunnels(desired: Desired, draft: Draft) -> dict[str, TunnelSpec]:
    wall = draft.now.wall
    wanted = {}
    for tunnel in desired.tunnels.values():
        off = why_off(tunnel, desired, wall)
        if off is None:
            wanted[tunnel.id] = tunnel
        changes_at = tunnel.policy.expires_at if off is None else off.until
        if changes_at is not None and changes_at > wall:
            draft.wake(draft.now.mono + min(changes_at - wall, WALL_CHECK_EVERY))
    return wanted
