"""The planner: what is asked and what is there -> the next steps. Pure, level-triggered, the heart of the program.

It keys things by what they are: sockets by address, links by access, flows by route. A policy edit, a retarget, a
rename and two tunnels swapping ports are then one row (socket there, owner differs: `Assign`); make before break is
"enough links with the right access are ready, so retire the wrong ones"; drain is "this flow's route or link is
stale: give it a deadline", revival is "it is not stale any more: take it back".

Steps come in the order stop, change, start: an address is let go before another tunnel asks for it.
`Plan.wake_at` is the next moment at which time alone would change the answer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.addresses import Addresses, is_choice, is_remote
from reconciler.core.backoff import next_link_try, next_socket_try
from reconciler.core.observed import (
    DrainCause,
    Draining,
    FlowState,
    LinkPhase,
    LinkState,
    Now,
    Observed,
    SocketKey,
    SocketPhase,
    SocketState,
)
from reconciler.core.spec import Desired, Listen, Route, TargetSpec, TunnelSpec

FAIL_BACK_EVERY = 60.0  # at most one real login a minute to see whether a preferred host is well
WALL_CHECK_EVERY = 60.0  # a wall clock can jump: an expiry is looked at this often at least


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps to carry out in order, and when to plan again if nothing happens (monotonic; inf: never)."""

    actions: tuple[Action, ...]
    wake_at: float


def make_plan(desired: Desired, observed: Observed, now: Now) -> Plan:
    """The next steps from `observed` towards `desired`. Nothing to do: no actions."""
    draft = _Draft(now)
    wanted = _wanted_tunnels(desired, draft)
    links = _plan_links(desired, observed, wanted, draft)
    assigned = _plan_sockets(desired, observed, wanted, links, draft)
    _plan_flows(desired, observed, wanted, assigned, draft)
    return Plan((*draft.stop, *draft.change, *draft.start), draft.wake_at)


def is_wanted(tunnel: TunnelSpec, desired: Desired, wall: float) -> bool:
    """Whether the tunnel should be live at that wall time: not off, not expired, and its target not off."""
    if tunnel.off or (tunnel.policy.expires_at is not None and tunnel.policy.expires_at <= wall):
        return False
    target = desired.targets.get(tunnel.target)
    return target is not None and not target.off


@dataclass(slots=True)
class _Draft:
    """A plan under way."""

    now: Now
    stop: list[Action] = field(default_factory=list)
    change: list[Action] = field(default_factory=list)
    start: list[Action] = field(default_factory=list)
    wake_at: float = math.inf

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)

    def due(self, at: float) -> bool:
        """Whether that moment has come; if not, it is one to wake at."""
        if at <= self.now.mono:
            return True
        self.wake(at)
        return False


@dataclass(slots=True)
class _Assigned:
    """The tunnels that a socket is handed to: their clients, and those who go where they lead, may not be theirs."""

    tunnels: set[str] = field(default_factory=set)
    routes: set[Route] = field(default_factory=set)


def _wanted_tunnels(desired: Desired, draft: _Draft) -> dict[str, TunnelSpec]:
    wall = draft.now.wall
    wanted = {}
    for tunnel in desired.tunnels.values():
        if not is_wanted(tunnel, desired, wall):
            continue
        wanted[tunnel.id] = tunnel
        if tunnel.policy.expires_at is not None:
            draft.wake(draft.now.mono + min(tunnel.policy.expires_at - wall, WALL_CHECK_EVERY))
    return wanted


# --- links ------------------------------------------------------------------------------------------------------


def _plan_links(
    desired: Desired, observed: Observed, wanted: dict[str, TunnelSpec], draft: _Draft
) -> dict[str, list[LinkState]]:
    """Dial, tune and retire. Returns the links of each target that are ready and stay so, the oldest first."""
    by_target: defaultdict[str, list[LinkState]] = defaultdict(list)
    for link in observed.links:
        if link.phase is not LinkPhase.RETIRING:
            by_target[link.target].append(link)
    flows_on = _flows_by_link(observed)
    needed = {tunnel.target for tunnel in wanted.values()}
    serving = {tunnel.target for tunnel in wanted.values() if is_remote(tunnel.listen)}
    staying: dict[str, list[LinkState]] = {}
    for name in sorted(needed | by_target.keys()):
        target = desired.targets.get(name)
        links = by_target[name]
        if (
            target is not None
            and name in needed
            and (name in serving or _in_demand(target, links, flows_on, observed, draft))
        ):
            staying[name] = _plan_target(target, links, flows_on, observed, draft)
        else:
            # A link with clients is left to them: their own deadlines end it, and a tunnel put back finds it alive.
            _retire((link for link in links if not flows_on.get(link.id)), "no tunnel needs it", draft)
    return staying


def _flows_by_link(observed: Observed) -> dict[int, int]:
    counts: dict[int, int] = {}
    for flow in observed.flows:
        counts[flow.key.link] = counts.get(flow.key.link, 0) + flow.count
    return counts


def _in_demand(
    target: TargetSpec, links: list[LinkState], flows_on: dict[int, int], observed: Observed, draft: _Draft
) -> bool:
    if target.on_demand is None:
        return True
    demand = observed.demand.get(target.name)
    if demand is None:
        return False
    busy = demand.held > 0 or any(flows_on.get(link.id) for link in links)
    return busy or not draft.due(demand.last_used + target.on_demand)


def _plan_target(
    target: TargetSpec, links: list[LinkState], flows_on: dict[int, int], observed: Observed, draft: _Draft
) -> list[LinkState]:
    right = [link for link in links if link.access == target.access and link.trusted]
    ready = [link for link in right if link.phase is LinkPhase.READY]
    # Fail-back only lowers the highest acceptable host: a link to a less preferred one is then a wrong one.
    hosts = len(target.access.hop.hosts)
    best = min((link.host for link in ready), default=hosts - 1)
    good = [link for link in ready if link.host <= best]
    dialing = [link for link in right if link.phase is LinkPhase.DIALING]

    _retire(
        (k for k in links if k.phase is LinkPhase.DIALING and k not in dialing), "it leads to the wrong place", draft
    )
    if len(good) >= target.connections:
        surplus = sorted(good, key=lambda link: (flows_on.get(link.id, 0), -link.id))
        surplus = surplus[: len(good) - target.connections]
        retired = [k for k in links if k.phase is LinkPhase.READY and (k not in good or k in surplus)]
        _retire(retired, "another connection has taken over", draft)
        good = [link for link in good if link not in surplus]
        # A dial for a host no better than what is there came too late; one for a better host is a fail-back.
        _retire((link for link in dialing if link.limit > best), "enough connections are up", draft)
        fail_back = not any(link.limit <= best for link in dialing)
        if best > 0 and fail_back and _fail_back_due(target, good, observed, draft):
            draft.start.append(Dial(target, best, "a preferred host may be back"))
        staying = good
    else:
        limit = best + 1 if good else hosts
        # A fail-back under way does not count: it may be trying a host that is dead while others are well.
        dials = sum(link.limit >= limit for link in dialing)
        _dial_missing(target, len(good), dials, limit, observed, draft)
        staying = [link for link in links if link.phase is LinkPhase.READY]  # make before break: the old ones go on
    for link in staying:
        if link.settings != target.settings:
            draft.change.append(Tune(link.id, target.name, target.settings, "its settings changed"))
    return staying


def _dial_missing(target: TargetSpec, good: int, dialing: int, limit: int, observed: Observed, draft: _Draft) -> None:
    missing = target.connections - good - dialing
    if missing <= 0:
        return
    tries = observed.link_tries.get(target.name)
    if tries is None or tries.access != target.access:
        why = "it is asked for" if tries is None else "the way to reach it changed"
        draft.start.extend([Dial(target, limit, why)] * missing)
        return
    if dialing and tries.failures:
        return  # after a failure one at a time: one answer tells as much as sixteen
    demand = observed.demand.get(target.name)
    held = demand is not None and demand.held > 0
    fingerprint = observed.fingerprints.get(target.name, "")
    if draft.due(next_link_try(tries, target.settings.reconnect, target.name, held, fingerprint)):
        count = 1 if tries.failures else missing
        draft.start.extend([Dial(target, limit, f"try again after: {tries.last.reason}")] * count)


def _fail_back_due(target: TargetSpec, good: list[LinkState], observed: Observed, draft: _Draft) -> bool:
    tries = observed.link_tries.get(target.name)
    since = max(link.since for link in good)
    return draft.due(max(since, tries.at if tries else since) + FAIL_BACK_EVERY)


def _retire(links: Iterable[LinkState], why: str, draft: _Draft) -> None:
    draft.stop.extend(Retire(link.id, link.target, why) for link in links)


# --- sockets ----------------------------------------------------------------------------------------------------


def _plan_sockets(
    desired: Desired,
    observed: Observed,
    wanted: dict[str, TunnelSpec],
    links: dict[str, list[LinkState]],
    draft: _Draft,
) -> _Assigned:
    """Close what is asked for no more, hand over what changed owner, move what lost its link, open what is missing."""
    settled = set()
    free: dict[SocketKey, SocketState] = {}
    for key, socket in observed.sockets.items():
        tunnel = wanted.get(socket.owner.id)
        if (tunnel is socket.owner or tunnel == socket.owner) and socket.phase is not SocketPhase.CLOSING:
            settled.add(socket.owner.id)
            _follow_link(socket, links, draft)
        else:
            free[key] = socket
    assigned = _Assigned()
    if len(settled) == len(wanted) and not free:
        return assigned
    missing = []
    # By name, so that the order of the file does not decide which of several equal sockets a tunnel gets.
    for tunnel in sorted((t for t in wanted.values() if t.id not in settled), key=lambda tunnel: tunnel.id):
        found = _claim(tunnel, free, desired)
        if found is None:
            missing.append(tunnel)
        elif found.phase is not SocketPhase.CLOSING:
            why = "renamed, or another tunnel's" if found.owner.id != tunnel.id else "its settings changed"
            draft.change.append(Assign(found.key, tunnel, why))
            assigned.tunnels.add(tunnel.id)
            assigned.routes.add(tunnel.route)
            _follow_link(found, links, draft)
    for socket in free.values():
        if socket.phase is not SocketPhase.CLOSING:
            draft.stop.append(Close(socket.key, "no tunnel asks for it"))
    _open_missing(missing, observed, links, draft)
    return assigned


def _follow_link(socket: SocketState, links: dict[str, list[LinkState]], draft: _Draft) -> None:
    """A listener on the server lives by a link. One that is retiring hands it to one that stays."""
    if socket.link is None or socket.phase is not SocketPhase.BOUND:
        return
    staying = links.get(socket.owner.target, [])
    if staying and all(link.id != socket.link for link in staying):
        draft.change.append(Move(socket.key, staying[0].id, "its connection was replaced"))


def _claim(tunnel: TunnelSpec, free: dict[SocketKey, SocketState], desired: Desired) -> SocketState | None:
    """The observed socket that is this tunnel's, taken out of `free`."""
    if not is_choice(tunnel.listen):
        return free.pop(SocketKey(tunnel.listen, 0), None)
    # A chosen port is the tunnel's own first; else that of an owner which asks for it no more and led to the same
    # place (a rename).
    equal = [
        socket
        for socket in free.values()
        if socket.key.listen == tunnel.listen and socket.phase is not SocketPhase.CLOSING
    ]
    own = [socket for socket in equal if socket.owner.id == tunnel.id]
    orphans = [
        socket
        for socket in equal
        if socket.owner.route == tunnel.route and not _asks_for(desired.tunnels.get(socket.owner.id), tunnel.listen)
    ]
    found = min(own or orphans, key=lambda socket: socket.key.slot, default=None)
    return found and free.pop(found.key)


def _asks_for(tunnel: TunnelSpec | None, listen: Listen) -> bool:
    return tunnel is not None and not tunnel.off and tunnel.listen == listen


def _open_missing(
    missing: list[TunnelSpec], observed: Observed, links: dict[str, list[LinkState]], draft: _Draft
) -> None:
    if not missing:
        return
    taken = Addresses(socket.key.listen for socket in observed.sockets.values())
    used = set(observed.sockets)
    for tunnel in missing:
        slot = 0
        while is_choice(tunnel.listen) and SocketKey(tunnel.listen, slot) in used:
            slot += 1
        key = SocketKey(tunnel.listen, slot)
        link = None
        if is_remote(tunnel.listen):
            staying = links.get(tunnel.target)
            if not staying:
                continue
            link = staying[0].id
        if taken.meets(tunnel.listen):
            continue  # still held by what is being closed; its end is an event, and the next pass
        used.add(key)  # taken or waiting: another tunnel with a chosen port does not share its troubles
        tries = observed.socket_tries.get(key)
        if tries is None or draft.due(next_socket_try(tries, tunnel.id)):
            draft.start.append(Open(key, tunnel, link, "it is asked for"))
            taken.add(tunnel.listen)


# --- flows ------------------------------------------------------------------------------------------------------


def _plan_flows(
    desired: Desired, observed: Observed, wanted: dict[str, TunnelSpec], assigned: _Assigned, draft: _Draft
) -> None:
    """Give stale clients a deadline, take it back from revived ones, cut those whose time is up."""
    replaced = _handover_ends(desired, observed)
    doors = _Doors(wanted)
    for flow in observed.flows:
        if assigned.tunnels and (flow.key.tunnel in assigned.tunnels or flow.key.route in assigned.routes):
            continue  # whose these clients are, and whom of them the new rules cut, is seen in the next pass
        handover_end = replaced.get(flow.key.link, math.inf)
        asked = _draining(flow, _time_to_leave(flow, wanted, doors), handover_end, draft.now)
        if asked is None:
            if flow.draining is not None:
                draft.change.append(Drain(flow.key, None, "its tunnel is back"))
        elif asked != flow.draining:
            draft.change.append(Drain(flow.key, asked, _why(flow, asked)))
            draft.wake(asked.deadline)
        elif draft.due(asked.deadline):
            draft.stop.append(Cut(flow.key, "its time to drain is over"))


class _Doors:
    """The addresses that anybody wants to listen on: who came in by another one is drained (a port was changed), who
    came in by one that only changed hands is not (two tunnels swapped ports).
    """

    def __init__(self, wanted: dict[str, TunnelSpec]) -> None:
        self._wanted = wanted
        self._listens: set[Listen] | None = None

    def stay_open(self, listen: Listen, tunnel: TunnelSpec) -> bool:
        if tunnel.listen is listen or tunnel.listen == listen:
            return True
        if self._listens is None:  # hashing ten thousand addresses is for the pass that needs it
            self._listens = {tunnel.listen for tunnel in self._wanted.values()}
        return listen in self._listens


def _time_to_leave(flow: FlowState, wanted: dict[str, TunnelSpec], doors: _Doors) -> float | None:
    """How long clients may stay whose tunnel is gone or leads elsewhere now; None: it is where they came in."""
    tunnel = wanted.get(flow.key.tunnel)
    if tunnel is None:
        return flow.drain_timeout
    if tunnel.route is not flow.key.route and tunnel.route != flow.key.route:
        return tunnel.policy.drain_timeout
    return None if doors.stay_open(flow.key.listen, tunnel) else tunnel.policy.drain_timeout


def _handover_ends(desired: Desired, observed: Observed) -> dict[int, float]:
    """Until when clients may finish on each connection that was replaced."""
    return {
        link.id: link.since + target.settings.handover_timeout
        for link in observed.links
        if link.phase is LinkPhase.RETIRING and (target := desired.targets.get(link.target)) is not None
    }


def _draining(flow: FlowState, time_to_leave: float | None, handover_end: float, now: Now) -> Draining | None:
    """The deadline of these clients, None: they may stay. It is set once for each cause, and the nearer end holds.

    `handover_end` is that of their connection, inf if it was not replaced.
    """
    before = flow.draining
    if time_to_leave is None:
        if handover_end == math.inf:
            return None
        return before if before and before.cause is DrainCause.LINK else Draining(DrainCause.LINK, handover_end)
    deadline = before.deadline if before else math.inf
    if before is None or before.cause is DrainCause.LINK:
        deadline = min(deadline, now.mono + time_to_leave)
    return Draining(DrainCause.ROUTE, min(deadline, handover_end))


def _why(flow: FlowState, asked: Draining) -> str:
    if asked.cause is DrainCause.ROUTE and (flow.draining is None or flow.draining.cause is DrainCause.LINK):
        return "its tunnel is elsewhere now, or gone"
    return "its connection was replaced"
