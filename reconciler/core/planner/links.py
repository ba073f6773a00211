"""Plans the links: which connections to dial, tune and retire.

Make before break: links with a wrong access are retired only when enough links with the right access are ready. A link
on which nothing is received is in doubt: it may be dead. Another link is dialled meanwhile, and the first one that
answers serves the clients. A link in doubt is kept until it ends. If it answers again, the one with fewer clients is
retired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from reconciler.core.actions import ACCESS_CHANGED, ASKED_FOR, Dial, Retire, Tune
from reconciler.core.addresses import is_remote
from reconciler.core.backoff import next_dial
from reconciler.core.observed import LinkPhase, LinkState, Observed
from reconciler.core.planner.draft import WALL_CHECK_EVERY, Draft
from reconciler.core.spec import Desired, TargetSpec, TunnelSpec

IN_DOUBT = "nothing is received on its connection"
FAIL_BACK_EVERY = 60.0  # seconds between two logins that check whether a preferred host is back


def plan_links(
    desired: Desired, observed: Observed, wanted: dict[str, TunnelSpec], draft: Draft
) -> dict[str, list[LinkState]]:
    """Plan to dial, tune and retire. Return the ready links that stay in service, by target; those in doubt last."""
    by_target: defaultdict[str, list[LinkState]] = defaultdict(list)
    for link in observed.links:
        if link.phase is not LinkPhase.RETIRING:
            by_target[link.target].append(link)
    clients_on = _clients_by_link(observed)
    needed = {tunnel.target for tunnel in wanted.values()}
    with_remote_listeners = {tunnel.target for tunnel in wanted.values() if is_remote(tunnel.listen)}
    staying: dict[str, list[LinkState]] = {}
    for name in sorted(needed | by_target.keys()):
        target = desired.targets.get(name)
        links = by_target[name]
        if (
            target is not None
            and name in needed
            and (name in with_remote_listeners or _in_demand(target, links, clients_on, observed, draft))
        ):
            staying[name] = _plan_target(target, links, clients_on, observed, draft)
        else:
            # A link with clients stays until their drain deadlines: a tunnel that is restored meanwhile uses it again.
            _retire((link for link in links if not clients_on.get(link.id)), "no tunnel needs it", draft)
    return staying


def _clients_by_link(observed: Observed) -> dict[int, int]:
    counts: dict[int, int] = {}
    for flow in observed.flows:
        counts[flow.key.link] = counts.get(flow.key.link, 0) + flow.count
    return counts


def _in_demand(
    target: TargetSpec, links: list[LinkState], clients_on: dict[int, int], observed: Observed, draft: Draft
) -> bool:
    if target.on_demand is None:
        return True
    demand = observed.demand.get(target.name)
    if demand is None:
        return False
    busy = demand.held > 0 or any(clients_on.get(link.id) for link in links)
    return busy or not draft.due(demand.last_used + target.on_demand)


def _plan_target(
    target: TargetSpec, links: list[LinkState], clients_on: dict[int, int], observed: Observed, draft: Draft
) -> list[LinkState]:
    right = [link for link in links if link.access == target.access and link.trusted]
    ready = [link for link in right if link.phase is LinkPhase.READY]
    # Hosts are numbered by preference. A link to a host after the best connected one is not good: a fail-back has
    # replaced it.
    hosts = len(target.access.hop.hosts)
    sure = [link for link in ready if link.id not in observed.stalled]
    best = min((link.host for link in sure), default=hosts - 1)
    good = [link for link in sure if link.host <= best]
    in_doubt = [link for link in ready if link.id in observed.stalled and link.host <= best]
    dialing = [link for link in right if link.phase is LinkPhase.DIALING]

    outdated = (link for link in links if link.phase is LinkPhase.DIALING and link not in dialing)
    _retire(outdated, "its connection settings are outdated", draft)
    if len(good) >= target.connections:
        surplus = sorted(good, key=lambda link: (clients_on.get(link.id, 0), -link.id))
        surplus = surplus[: len(good) - target.connections]
        good = [link for link in good if link not in surplus]
        staying = [*good, *in_doubt]
        retired = [link for link in links if link.phase is LinkPhase.READY and link not in staying]
        _retire(retired, "another connection has taken over", draft)
        # A dial to a host that is more preferred than the best connected one is a fail-back. Any other is not needed.
        _retire((link for link in dialing if link.limit > best), "enough connections are up", draft)
        fail_back = not any(link.limit <= best for link in dialing)
        if best > 0 and fail_back and _fail_back_due(target, good, observed, draft):
            draft.start.append(Dial(target, best, "checking whether a preferred host is back"))
    else:
        limit = best + 1 if good else hosts
        # A fail-back in progress does not count: it may be dialling a dead host while other hosts are reachable.
        dials = sum(link.limit >= limit for link in dialing)
        missing = target.connections - len(good) - dials
        if in_doubt:  # limits the connections to a server that lets each log in and then sends nothing
            missing = min(missing, 2 * target.connections - len(ready) - dials)
        _dial_missing(target, missing, dials, limit, IN_DOUBT if in_doubt else ASKED_FOR, observed, draft)
        # Make before break: includes wrong ones. The first gets the remote listeners.
        staying = [link for link in links if link.phase is LinkPhase.READY]
        staying.sort(key=lambda link: link.id in observed.stalled)
    for link in staying:
        if link.settings != target.settings:
            draft.change.append(Tune(link.id, target.name, target.settings, "its settings changed"))
    return staying


def _dial_missing(
    target: TargetSpec, missing: int, dialing: int, limit: int, why: str, observed: Observed, draft: Draft
) -> None:
    if missing <= 0:
        return
    tries = observed.link_tries.get(target.name)
    if tries is None or tries.access != target.access:
        why = why if tries is None else ACCESS_CHANGED
        draft.start.extend([Dial(target, limit, why)] * missing)
        return
    if dialing and tries.failures:
        return  # after a failure, dial one link at a time: one result is enough
    demand = observed.demand.get(target.name)
    held = demand is not None and demand.held > 0
    fingerprint = observed.fingerprints.get(target.name, "")
    if tries.last.ends_at is not None:
        draft.wake(draft.now.mono + WALL_CHECK_EVERY)
    if draft.due(next_dial(tries, target.settings.reconnect, target.name, held, fingerprint, draft.now).at):
        count = 1 if tries.failures else missing
        draft.start.extend([Dial(target, limit, f"retry after failure: {tries.last.reason}")] * count)


def _fail_back_due(target: TargetSpec, good: list[LinkState], observed: Observed, draft: Draft) -> bool:
    tries = observed.link_tries.get(target.name)
    since = max(link.since for link in good)
    return draft.due(max(since, tries.at if tries else since) + FAIL_BACK_EVERY)


def _retire(links: Iterable[LinkState], why: str, draft: Draft) -> None:
    draft.stop.extend(Retire(link.id, link.target, why) for link in links)
