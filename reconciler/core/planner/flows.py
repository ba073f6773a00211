"""Plans the flows: which live clients get a deadline, lose it again, or are cut."""

from __future__ import annotations

import math

from reconciler.core.actions import Cut, Drain
from reconciler.core.observed import DrainCause, Draining, FlowState, LinkPhase, Now, Observed
from reconciler.core.planner.draft import Draft
from reconciler.core.planner.sockets import Assigned
from reconciler.core.spec import Desired, Listen, TunnelSpec


def plan_flows(
    desired: Desired, observed: Observed, wanted: dict[str, TunnelSpec], assigned: Assigned, draft: Draft
) -> None:
    """Plan deadlines for stale flows, no deadline for flows that are current again, and cuts when a deadline passes.

    A flow is stale if its tunnel, route, listen address or link is no longer the current one.
    """
    handover_ends = _handover_ends(desired, observed)
    addresses = _WantedAddresses(wanted)
    for flow in observed.flows:
        if assigned.tunnels and (flow.key.tunnel in assigned.tunnels or flow.key.route in assigned.routes):
            continue  # the next pass sees the new owner of these clients, and which of them its rules cut
        handover_end = handover_ends.get(flow.key.link, math.inf)
        draining = _draining(flow, _drain_time(flow, wanted, addresses), handover_end, draft.now)
        if draining is None:
            if flow.draining is not None:
                draft.change.append(Drain(flow.key, None, "its tunnel is back"))
        elif draining != flow.draining:
            draft.change.append(Drain(flow.key, draining, _why(flow, draining)))
            draft.wake(draining.deadline)
        elif draft.due(draining.deadline):
            draft.stop.append(Cut(flow.key, "its drain deadline has passed"))


class _WantedAddresses:
    """The listen addresses that any tunnel wants.

    A client is drained if no tunnel wants its listen address any more (a port was changed). It stays if the address
    only changed its owner (two tunnels swapped ports).
    """

    def __init__(self, wanted: dict[str, TunnelSpec]) -> None:
        self._wanted = wanted
        self._listens: set[Listen] | None = None

    def has(self, listen: Listen, tunnel: TunnelSpec) -> bool:
        if tunnel.listen is listen or tunnel.listen == listen:
            return True
        if self._listens is None:  # built on demand: most passes need not hash ten thousand addresses
            self._listens = {tunnel.listen for tunnel in self._wanted.values()}
        return listen in self._listens


def _drain_time(flow: FlowState, wanted: dict[str, TunnelSpec], addresses: _WantedAddresses) -> float | None:
    """Return how long clients of a stale tunnel, route or address may stay; None if all three are current."""
    tunnel = wanted.get(flow.key.tunnel)
    if tunnel is None:
        return flow.drain_timeout
    if tunnel.route is not flow.key.route and tunnel.route != flow.key.route:
        return tunnel.policy.drain_timeout
    return None if addresses.has(flow.key.listen, tunnel) else tunnel.policy.drain_timeout


def _handover_ends(desired: Desired, observed: Observed) -> dict[int, float]:
    """Return the deadline for the clients on each retiring link."""
    return {
        link.id: link.since + target.settings.handover_timeout
        for link in observed.links
        if link.phase is LinkPhase.RETIRING and (target := desired.targets.get(link.target)) is not None
    }


def _draining(flow: FlowState, drain_time: float | None, handover_end: float, now: Now) -> Draining | None:
    """Return the deadline of these clients, None if they may stay.

    The deadline is set once for each cause, and the earlier one applies. `handover_end` is the deadline of their link,
    inf if it is not retiring.
    """
    before = flow.draining
    if drain_time is None:
        if handover_end == math.inf:
            return None
        return before if before and before.cause is DrainCause.LINK else Draining(DrainCause.LINK, handover_end)
    deadline = before.deadline if before else math.inf
    if before is None or before.cause is DrainCause.LINK:
        deadline = min(deadline, now.mono + drain_time)
    return Draining(DrainCause.ROUTE, min(deadline, handover_end))


def _why(flow: FlowState, draining: Draining) -> str:
    if draining.cause is DrainCause.ROUTE and (flow.draining is None or flow.draining.cause is DrainCause.LINK):
        return "its tunnel was changed or removed"
    return "its connection was replaced"
