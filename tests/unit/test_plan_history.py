"""Random histories: the planner keeps its guarantees whatever is edited, fails, is late or is lost.

Hypothesis plays the network and the edits of the file. Each pass is compared with the guarantees, which are written
here a second time, independently of the planner. At the end nothing fails any more, and everything must converge.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.core.actions import Action, Close, Cut, Dial, Drain, Retire
from reconciler.core.addresses import Addresses, is_choice
from reconciler.core.observed import DrainCause, Failure, LinkPhase, LinkState, Now, Observed, Reason, SocketPhase
from reconciler.core.off import DISABLED, Off, OffCause
from reconciler.core.plan import is_wanted, make_plan
from reconciler.core.simulation.plan import simulate_edit
from reconciler.core.spec import Desired, Endpoint, FarTcp, RemoteTcp, TargetSpec, TunnelSpec
from reconciler.runtime.plan_report import report_plan
from unit.build import AUTH, CLOSED, REFUSED, START, TIMEOUT, World, local, remote, target

TARGETS = ("a", "b")
HOSTS = ("h0", "h1", "h2")
IDS = tuple(f"{target}/{number}" for target in TARGETS for number in range(3))
PORTS = (1, 2, 0, (15000, 15001))
ADDRESSES = ("127.0.0.1", "0.0.0.0")
FORBIDDEN = Failure(Reason.FORBIDDEN_BY_SERVER, "no")
TAKEN = Failure(Reason.LOCAL_PORT_IN_USE, "taken")

targets = st.builds(
    target,
    st.just("a"),
    hosts=st.sampled_from((HOSTS[:1], HOSTS[:2], HOSTS)),
    user=st.sampled_from(("u", "v")),
    connections=st.integers(1, 3),
    on_demand=st.sampled_from((None, None, None, 20.0)),
    off=st.sampled_from((None, None, None, DISABLED)),
    handover_timeout=st.sampled_from((0.0, 50.0)),
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "drain_timeout": st.sampled_from((0.0, 5.0)),
        "expires_at": st.sampled_from((10.0, 100.0, 300.0)).map(lambda seconds: START.wall + seconds),
        "off": st.sampled_from((None, Off(OffCause.PAUSED))),
        "description": st.text("ab", max_size=1),
    },
)
tunnels = st.one_of(
    st.builds(
        lambda port, host, to, more: local("a/x", port, host=host, to=to, **more),
        st.sampled_from(PORTS),
        st.sampled_from(ADDRESSES),
        st.sampled_from(("x", "y")),
        policies,
    ),
    st.builds(
        lambda port, host, to, more: remote("a/x", port, host=host, to=to, **more),
        st.sampled_from((80, 0)),
        st.sampled_from(ADDRESSES),
        st.sampled_from((1, 2)),
        policies,
    ),
)
numbers = st.integers(0, 20)
some_time = st.sampled_from((0.0, 0.1, 0.25, 1.0, 5.0, 20.0, 61.0, 400.0))


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.asked: dict[str, TargetSpec | TunnelSpec] = {}
        self.mood = "kind"

    # --- edits ---

    @initialize(a=targets, b=targets, some=st.dictionaries(st.sampled_from(IDS), tunnels, min_size=1, max_size=5))
    def begin(self, a: TargetSpec, b: TargetSpec, some: dict[str, TunnelSpec]) -> None:
        self._edit({"a": a, "b": replace(b, name="b")})
        for id_, spec in some.items():
            self.add(id_, spec)

    @rule(name=st.sampled_from(TARGETS), spec=targets)
    def target(self, name: str, spec: TargetSpec) -> None:
        self._edit({name: replace(spec, name=name)})

    @rule(name=st.sampled_from(TARGETS))
    def restart(self, name: str) -> None:
        spec = self.asked[name]
        assert isinstance(spec, TargetSpec)
        self._edit({name: replace(spec, access=replace(spec.access, generation=spec.access.generation + 1))})

    @rule(id_=st.sampled_from(IDS), spec=tunnels)
    def add(self, id_: str, spec: TunnelSpec) -> None:
        self._edit({id_: _named(spec, id_)})

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        if tunnel := self._tunnel(number):
            del self.asked[tunnel.id]

    @rule(number=numbers)
    def turn_off_or_on(self, number: int) -> None:
        if tunnel := self._tunnel(number):
            self._edit({tunnel.id: replace(tunnel, off=None if tunnel.off else Off(OffCause.PAUSED))})

    @rule(number=numbers, like=tunnels)
    def lead_elsewhere(self, number: int, like: TunnelSpec) -> None:
        if (tunnel := self._tunnel(number)) and tunnel.kind == like.kind:
            self._edit({tunnel.id: _named(replace(tunnel, route=like.route), tunnel.id)})

    @rule(number=numbers, like=tunnels)
    def change_policy(self, number: int, like: TunnelSpec) -> None:
        if tunnel := self._tunnel(number):
            self._edit({tunnel.id: replace(tunnel, policy=like.policy)})

    @rule(number=numbers, name=st.integers(0, 2))
    def rename(self, number: int, name: int) -> None:
        """Two tunnels exchange their names, if both exist."""
        if tunnel := self._tunnel(number):
            id_ = f"{tunnel.target}/{name}"
            other = self.asked.get(id_)
            del self.asked[tunnel.id]
            self._edit({id_: _named(tunnel, id_)})
            if isinstance(other, TunnelSpec) and other is not tunnel:
                self._edit({tunnel.id: _named(other, tunnel.id)})

    def _tunnel(self, number: int) -> TunnelSpec | None:
        there = [spec for spec in self.asked.values() if isinstance(spec, TunnelSpec)]
        return there[number % len(there)] if there else None

    def _edit(self, change: dict[str, TargetSpec] | dict[str, TunnelSpec]) -> None:
        asked = self.asked | change
        used = Addresses(())
        for spec in asked.values():
            if isinstance(spec, TunnelSpec) and spec.off is None:
                if used.meets(spec.listen):
                    return  # an error in the file
                used.add(spec.listen)
        self.asked = asked

    # --- the world ---

    @rule(number=numbers, failure=st.sampled_from((None, None, REFUSED, TIMEOUT, AUTH, CLOSED, FORBIDDEN, TAKEN)))
    def finish(self, number: int, failure: Failure | None) -> None:
        if under_way := self.world.under_way():
            self.world.finish(under_way[number % len(under_way)], failure)

    @rule(number=numbers, failure=st.sampled_from((CLOSED, AUTH)))
    def lose(self, number: int, failure: Failure) -> None:
        if links := self.world.links():
            self.world.lose(links[number % len(links)].id, failure)

    @rule(number=numbers)
    def distrust(self, number: int) -> None:
        if links := self.world.links(LinkPhase.READY):
            self.world.distrust(links[number % len(links)].id)

    @rule(number=numbers)
    def trust_again(self, number: int) -> None:
        if links := [link for link in self.world.links() if not link.trusted]:
            self.world.trust_again(links[number % len(links)].id)

    @rule(number=numbers, clients=st.integers(1, 3))
    def arrive(self, number: int, clients: int) -> None:
        if sockets := self.world.sockets():
            for _ in range(clients):
                self.world.arrive(sockets[number % len(sockets)].owner.id)

    @rule(number=numbers)
    def leave(self, number: int) -> None:
        if flows := self.world.observe().flows:
            self.world.leave(flows[number % len(flows)].key)

    @rule()
    def give_up(self) -> None:
        self.world.give_up()

    @rule(hosts=st.sets(st.sampled_from(HOSTS)))
    def hosts_go_and_come(self, hosts: set[str]) -> None:
        self.world.unreachable = {Endpoint(host, 22) for host in hosts}

    @rule(number=numbers)
    def another_program_takes(self, number: int) -> None:
        if tunnel := self._tunnel(number):
            self.world.busy ^= {tunnel.listen}

    @rule(name=st.sampled_from(TARGETS), fingerprint=st.sampled_from(("v1", "v2")))
    def files_change(self, name: str, fingerprint: str) -> None:
        self.world.fingerprints[name] = fingerprint

    @rule(seconds=some_time)
    def elapse(self, seconds: float) -> None:
        self.world.elapse(seconds)

    @rule(seconds=st.sampled_from((-3600.0, -7.0, 50.0)))
    def jump(self, seconds: float) -> None:
        self.world.jump(seconds)

    # --- the loop ---

    @rule(mood=st.sampled_from(("kind", "kind", "slow", "lagging")))
    def turn(self, mood: str) -> None:
        self.mood = mood

    @invariant()
    def look(self) -> None:
        """Run the passes after an event: all of them, or in a slow world one, or none if it lags."""
        if self.mood == "kind":
            self.settle()
        elif self.mood == "slow":
            self._pass()

    @rule()
    def converge(self) -> None:
        """Run all passes. They are few; then nothing is to do until `wake_at`."""
        for _ in range(8):
            if not self._pass():
                self._check_quiet()
                return
        raise AssertionError("it does not settle")

    @rule()
    def settle(self) -> None:
        """Finish all started work, and the work that follows from it."""
        for _ in range(20):
            self.converge()
            if not self.world.under_way():
                return
            self.world.settle()
        raise AssertionError("it begins things for ever")

    def teardown(self) -> None:
        self.world.unreachable.clear()
        self.world.busy.clear()
        end = self.world.now().mono + 8000
        for _ in range(500):
            self.settle()
            self.world.asked = self.desired
            at = self.world.wake_at()
            if at > end:
                break
            self.world.elapse(at - self.world.now().mono)
        else:
            raise AssertionError("it is never at rest")
        self._check_all_well()

    @property
    def desired(self) -> Desired:
        return Desired.of(
            (spec for spec in self.asked.values() if isinstance(spec, TargetSpec)),
            (spec for spec in self.asked.values() if isinstance(spec, TunnelSpec)),
        )

    def _pass(self) -> bool:
        desired, observed, now = self.desired, self.world.observe(), self.world.now()
        assert simulate_edit(desired, desired, observed, now) == (), "an unchanged file has no steps"
        if desired != self.world.asked:
            _check_plan_shows_each_change(self.world.asked, desired, observed, now)
        self.world.asked = desired
        self.world.set_desired(desired)
        plan = make_plan(desired, observed, now)
        _check_order_does_not_matter(desired, observed, now)
        _check_promises(plan.actions, desired, observed, now)
        for action in plan.actions:
            self.world.apply(action)
        self.world.check()
        return bool(plan.actions)

    # --- invariants ---

    def _check_quiet(self) -> None:
        """Check that nothing is to do before `wake_at`, so that the loop may sleep until then."""
        desired, observed, now = self.desired, self.world.observe(), self.world.now()
        wanted = _wanted(desired, now)
        for socket in observed.sockets.values():
            assert socket.phase is SocketPhase.CLOSING or wanted[socket.owner.id] == socket.owner
        _check_nearer_end_holds(desired, observed)
        at = make_plan(desired, observed, now).wake_at
        assert at > now.mono
        ahead = 1e6 if at == math.inf else at - now.mono
        for share in (0.01, 0.5, 0.99):
            then = make_plan(desired, observed, _later(now, share * ahead))
            assert then.actions == ()
            assert then.wake_at >= at - 1e-6
        if at < math.inf:
            then = make_plan(desired, observed, Now(at, now.wall + ahead))
            assert then.actions or then.wake_at > at

    def _check_all_well(self) -> None:
        desired, observed, now = self.desired, self.world.observe(), self.world.now()
        wanted = _wanted(desired, now)
        assert not self.world.under_way()
        assert not [flow for flow in observed.flows if flow.draining]
        up = {link.id for link in observed.links if link.phase is LinkPhase.READY}
        assert len(up) == len(observed.links)
        for name, spec in desired.targets.items():
            there = [link for link in observed.links if link.target == name]
            assert all(_is_right(link, spec) and link.host == 0 and link.settings == spec.settings for link in there)
            mine = [tunnel for tunnel in wanted.values() if tunnel.target == name]
            used = any(flow.key.link == link.id for flow in observed.flows for link in there)
            waits = spec.on_demand is not None and not any(tunnel.kind == "remote" for tunnel in mine)
            assert len(there) == (spec.connections if mine and (used or not waits) else 0)
            reachable = {tunnel.id for tunnel in mine if there or tunnel.kind == "local"}
            assert {s.owner.id for s in observed.sockets.values() if s.owner.target == name} == reachable
        assert len({socket.bound for socket in observed.sockets.values()}) == len(observed.sockets)
        for socket in observed.sockets.values():
            assert socket.phase is SocketPhase.BOUND
            assert socket.owner == wanted[socket.owner.id]
            assert socket.key.listen == socket.owner.listen
            assert socket.link is None or socket.link in up


def _named(spec: TunnelSpec, id_: str) -> TunnelSpec:
    """Return the tunnel with that name, on the target of that name."""
    target_name, _, name = id_.partition("/")
    listen = replace(spec.listen, target=target_name) if isinstance(spec.listen, RemoteTcp) else spec.listen
    route = replace(spec.route, target=target_name) if isinstance(spec.route, FarTcp) else spec.route
    return replace(spec, id=id_, target=target_name, name=name, listen=listen, route=route)


def _check_plan_shows_each_change(old: Desired, new: Desired, observed: Observed, now: Now) -> None:
    """Check that `tunnels plan` has a step for each tunnel that opens, closes or changes, and each changed target."""
    steps = report_plan(old, new, observed, now).steps
    before, after = _wanted(old, now), _wanted(new, now)
    shown = {step.subject.name for step in steps if step.action in ("open", "assign")}
    assert shown >= {id_ for id_, tunnel in after.items() if before.get(id_) != tunnel}
    lost = {tunnel.listen for tunnel in before.values()} - {tunnel.listen for tunnel in after.values()}
    closed = {step.subject.name for step in steps if step.action == "close"}
    assert closed >= {tunnel.id for tunnel in before.values() if tunnel.listen in lost and not is_choice(tunnel.listen)}
    in_use = {tunnel.target for tunnel in before.values()} & {tunnel.target for tunnel in after.values()}
    shown = {step.subject.name for step in steps if step.action in ("dial", "tune")}
    assert shown >= {name for name in in_use if old.targets[name] != new.targets[name]}


def _wanted(desired: Desired, now: Now) -> dict[str, TunnelSpec]:
    return {tunnel.id: tunnel for tunnel in desired.tunnels.values() if is_wanted(tunnel, desired, now.wall)}


def _later(now: Now, seconds: float) -> Now:
    return Now(now.mono + seconds, now.wall + seconds)


def _is_right(link: LinkState, spec: TargetSpec) -> bool:
    return link.access == spec.access and link.trusted


def _check_order_does_not_matter(desired: Desired, observed: Observed, now: Now) -> None:
    backwards = Desired.of(reversed([*desired.targets.values()]), reversed([*desired.tunnels.values()]))
    one, same, other = (make_plan(asked, observed, now) for asked in (desired, desired, backwards))
    assert one == same
    assert Counter(one.actions) == Counter(other.actions)
    assert one.wake_at == other.wake_at


def _check_promises(actions: tuple[Action, ...], desired: Desired, observed: Observed, now: Now) -> None:
    wanted = _wanted(desired, now)
    retired = {action.link for action in actions if isinstance(action, Retire)}
    for action in actions:
        match action:
            case Drain() | Cut():
                _check_clients(action, wanted, observed, now)
            case Retire():
                _check_retired(action, retired, desired, wanted, observed)
            case Close():
                _check_closed(action, wanted, observed)
            case Dial():
                _check_patient(action, observed, now)
            case _:
                pass  # the simulator refuses impossible events


def _check_clients(action: Drain | Cut, wanted: dict[str, TunnelSpec], observed: Observed, now: Now) -> None:
    """Check that clients are kept if their route, listen address and connection stay."""
    (flow,) = (flow for flow in observed.flows if flow.key == action.flow)
    (link,) = (link for link in observed.links if link.id == flow.key.link)
    tunnel = wanted.get(flow.key.tunnel)
    stale = tunnel is None or tunnel.route != flow.key.route or link.phase is LinkPhase.RETIRING
    stale = stale or flow.key.listen not in {other.listen for other in wanted.values()}
    if isinstance(action, Cut):
        assert stale
        assert flow.draining is not None
        assert flow.draining.deadline <= now.mono
    else:
        assert stale == (action.draining is not None)


def _check_nearer_end_holds(desired: Desired, observed: Observed) -> None:
    """Check that clients of a removed tunnel leave a replaced connection no later than other clients."""
    replaced = {link.id: link for link in observed.links if link.phase is LinkPhase.RETIRING}
    for flow in observed.flows:
        link = replaced.get(flow.key.link)
        if link is not None and flow.draining is not None and flow.draining.cause is DrainCause.ROUTE:
            assert flow.draining.deadline <= link.since + desired.targets[link.target].settings.handover_timeout


def _check_retired(
    action: Retire, retired: set[int], desired: Desired, wanted: dict[str, TunnelSpec], observed: Observed
) -> None:
    """Check that a used connection is retired only if enough others with the right access reach the best host."""
    (link,) = (link for link in observed.links if link.id == action.link)
    if link.phase is LinkPhase.DIALING:
        return
    if not any(tunnel.target == link.target for tunnel in wanted.values()) or _is_idle(link, desired, observed):
        assert all(flow.key.link != link.id for flow in observed.flows)
        return
    spec = desired.targets[link.target]
    ready = [k for k in observed.links if k.target == link.target and k.phase is LinkPhase.READY]
    right = [k for k in ready if _is_right(k, spec)]
    stay = [k for k in right if k.id not in retired]
    assert len(stay) == spec.connections
    assert {k.host for k in stay} == {min(k.host for k in right)}
    if _is_right(link, spec) and link.host == stay[0].host:
        clients = Counter({flow.key.link: flow.count for flow in observed.flows})
        assert all(clients[link.id] <= clients[k.id] for k in stay if len(observed.flows) == 1)


def _is_idle(link: LinkState, desired: Desired, observed: Observed) -> bool:
    """Return True if its target is on demand and has no client. Other tests check the idle time."""
    there = {k.id for k in observed.links if k.target == link.target and k.phase is not LinkPhase.RETIRING}
    demand = observed.demand.get(link.target)
    busy = (demand is not None and demand.held > 0) or any(flow.key.link in there for flow in observed.flows)
    return desired.targets[link.target].on_demand is not None and not busy


def _check_closed(action: Close, wanted: dict[str, TunnelSpec], observed: Observed) -> None:
    """Check that a port that a tunnel wants is assigned, never closed."""
    owner = wanted.get(observed.sockets[action.key].owner.id)
    assert owner is None or owner.listen != action.key.listen
    if not is_choice(action.key.listen):
        assert all(tunnel.listen != action.key.listen for tunnel in wanted.values())


def _check_patient(action: Dial, observed: Observed, now: Now) -> None:
    """Check that guarded failures are not retried early: a server could ban the client."""
    tries = observed.link_tries.get(action.target.name)
    same = tries is not None and tries.access == action.target.access
    if same and tries is not None and tries.last.reason is Reason.AUTH and not tries.at_once:
        assert tries.fingerprint != observed.fingerprints.get(action.target.name, "") or now.mono - tries.at >= 48


TestHistories = Histories.TestCase
