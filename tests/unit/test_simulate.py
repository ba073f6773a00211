"""The simulator: what `tunnels plan` predicts, and which actions it refuses as impossible."""

from dataclasses import replace

import pytest

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.interfaces import Actuator, Clock
from reconciler.core.observed import EMPTY, FlowKey, LinkPhase, Now, Observed, SocketKey, SocketPhase
from reconciler.core.plan import make_plan
from reconciler.core.simulation.impossible import ImpossibleError
from reconciler.core.simulation.plan import converge, simulate_edit
from reconciler.core.simulation.simulator import Simulator
from reconciler.core.spec import NOTHING, Desired, FarTcp, LocalTcp
from unit.build import AUTH, REFUSED, START, World, desired, local, remote, target, told


def simulated(old: Desired, new: Desired, observed: Observed) -> tuple[Action, ...]:
    return tuple(step.action for step in simulate_edit(old, new, observed, START))


def test_it_is_an_actuator_and_a_clock() -> None:
    world = Simulator(EMPTY, START, instant=True)
    actuator: Actuator = world
    clock: Clock = world
    assert actuator.observe() == EMPTY
    assert clock.now() == START


def test_from_nothing_every_action_is_predicted_in_order() -> None:
    steps = simulated(NOTHING, desired(target(), local(), remote()), EMPTY)
    assert told(steps) == [
        "dial prod",
        "open 127.0.0.1:5432 for prod/db",
        "open 127.0.0.1:8080 on prod for prod/web",
    ]


def test_only_the_differences_between_two_files_are_predicted() -> None:
    world = World()
    world.settled(target(), local(), remote())
    world.arrive("prod/db")
    before = world.observe()
    steps = simulated(world.asked, desired(target(generation=1), local(to="new"), remote()), before)
    assert sorted(told(steps)) == [
        "assign 127.0.0.1:5432 to prod/db",
        "dial prod",
        "drain prod/db",
        "move 127.0.0.1:8080 on prod to 2",
        "retire 1",
    ]
    assert world.observe() == before  # nothing was done


def test_nothing_is_predicted_if_desired_and_observed_agree() -> None:
    world = World()
    world.settled(target(), local(), remote())
    assert simulated(world.asked, world.asked, world.observe()) == ()


def test_a_rename_is_predicted_to_keep_its_clients() -> None:
    world = World()
    world.settled(target(), local("prod/old"))
    world.arrive("prod/old")
    steps = simulated(world.asked, desired(target(), local("prod/new")), world.observe())
    assert told(steps) == ["assign 127.0.0.1:5432 to prod/new"]


def test_a_retry_of_what_is_down_is_not_predicted() -> None:
    world = World()
    world.edit(target(), local(), remote())
    world.finish(1, AUTH)
    world.finish(KEY, REFUSED)
    assert simulated(world.asked, world.asked, world.observe()) == ()
    world.elapse(1000)
    assert simulated(world.asked, world.asked, world.observe()) == (), "also when the retry is due"


def test_a_retry_of_one_of_two_connections_is_not_predicted() -> None:
    world = World()
    world.settled(target(connections=2), local())
    world.lose(2, REFUSED)
    assert simulated(world.asked, world.asked, world.observe()) == ()
    assert told(simulated(world.asked, desired(target(user="other", connections=2), local()), world.observe())) == [
        "dial prod",
        "dial prod",
        "retire 1",
    ]


def test_an_edit_of_what_is_down_is_predicted() -> None:
    world = World()
    world.edit(target(), local(), remote())
    world.finish(1, AUTH)
    world.finish(KEY, REFUSED)
    before = world.observe()
    other_user = desired(target(user="other"), local(), remote())
    assert told(simulated(world.asked, other_user, before)) == ["dial prod"]
    elsewhere = desired(target(), local(to="new"), remote(to=9))
    assert sorted(told(simulated(world.asked, elsewhere, before))) == [
        "assign 127.0.0.1:5432 to prod/db",
        "assign 127.0.0.1:8080 on prod to prod/web",
    ]
    slower = desired(target(keepalive_interval=60.0), local(), remote())
    assert [type(action) for action in simulated(world.asked, slower, before)] == [Tune]


def test_a_failed_edit_that_was_reverted_is_predicted_again() -> None:
    world = World()
    world.settled(target(), local())
    world.edit(target(user="wrong"), local())
    world.finish(2, AUTH)
    assert simulated(world.asked, world.asked, world.observe()) == (), "the file asks for nothing new"
    world.edit(target(), local())
    assert simulated(world.asked, world.asked, world.observe()) == ()
    steps = simulated(world.asked, desired(target(user="wrong"), local()), world.observe())
    assert told(steps) == ["dial prod", "retire 1"]
    assert told(world.edit(target(user="wrong"), local())) == ["dial prod"], "at once"


def test_work_in_progress_is_not_predicted_again() -> None:
    world = World()
    world.edit(target(), remote())
    assert simulated(world.asked, world.asked, world.observe()) == ()
    world.settled(target(), local(), remote())
    world.arrive("prod/db")
    world.edit(target(user="other"), local(), remote())
    assert simulated(world.asked, world.asked, world.observe()) == (), "the old connection is still in service"


def test_the_previous_owner_of_a_listener_is_in_the_step() -> None:
    world = World()
    world.settled(target(), local("prod/old"))
    [step] = simulate_edit(world.asked, desired(target(), local("prod/new")), world.observe(), START)
    assert step.previous == local("prod/old")


def test_a_planner_that_contradicts_itself_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def restless(*_: object) -> object:
        plan = make_plan(desired(target(), local()), EMPTY, START)
        return replace(plan, actions=plan.actions[:1])

    monkeypatch.setattr("reconciler.core.simulation.plan.make_plan", restless)
    world = Simulator(EMPTY, START, instant=True)
    monkeypatch.setattr(world, "apply", lambda _: None)
    with pytest.raises(ImpossibleError, match="does not settle"):
        converge(world, desired(target(), local()))


FLOW = FlowKey("prod/db", LocalTcp("127.0.0.1", 5432, 5432), FarTcp("prod", "db", 5432), 1)
KEY = SocketKey(local().listen, 0)
REMOTE_KEY = SocketKey(remote().listen, 0)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (Dial(target(user="old"), 1, ""), "a wanted target"),
        (Dial(target("gone"), 1, ""), "a wanted target"),
        (Dial(target(), 2, ""), "within the hosts"),
        (Dial(target(), 0, ""), "within the hosts"),
        (Retire(7, "prod", ""), "a link that is there"),
        (Tune(7, "prod", target().settings, ""), "a link that is ready"),
        (Open(KEY, local(), None, ""), "not there yet"),
        (Open(SocketKey(local(host="0.0.0.0").listen, 0), local(host="0.0.0.0"), None, ""), "an address that is free"),
        (Open(SocketKey(local(port=9).listen, 0), local(port=9), None, ""), "a tunnel wanted there"),
        (Open(SocketKey(local(port=9).listen, 0), local(), None, ""), "a tunnel wanted there"),
        (Open(SocketKey(remote("prod/new", 9).listen, 0), remote("prod/new", 9), None, ""), "a link for a remote"),
        (Open(SocketKey(remote("prod/new", 9).listen, 0), remote("prod/new", 9), 7, ""), "a link that is ready"),
        (Close(SocketKey(local(port=9).listen, 0), "prod/db", ""), "a socket that is there"),
        (Assign(SocketKey(local(port=9).listen, 0), local(port=9), ""), "a socket that is there"),
        (Assign(KEY, remote(), ""), "a tunnel wanted there"),
        (Assign(KEY, local(to="old"), ""), "a tunnel wanted there"),
        (Move(KEY, "prod/db", 1, ""), "a remote listener"),
        (Move(REMOTE_KEY, "prod/web", 1, ""), "to another link"),
        (Move(REMOTE_KEY, "prod/web", 7, ""), "a link that is ready"),
        (Drain(FLOW, None, ""), "clients that are there"),
        (Cut(FLOW, ""), "clients that are there"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_an_impossible_action_is_refused(action: Action, why: str) -> None:
    world = World()
    world.settled(target(), local(), remote())
    world.edit(target(), local(), remote(), remote("prod/new", 9))
    world.finish(SocketKey(remote("prod/new", 9).listen, 0), REFUSED)
    with pytest.raises(ImpossibleError, match=why):
        world.apply(action)


def test_an_address_counts_as_bound_until_it_is_released() -> None:
    world = World()
    world.settled(target(), local())
    world.edit(target())
    world.set_desired(desired(target(), local(host="0.0.0.0")))
    with pytest.raises(ImpossibleError, match="an address that is free"):
        world.apply(Open(SocketKey(local(host="0.0.0.0").listen, 0), local(host="0.0.0.0"), None, ""))
    with pytest.raises(ImpossibleError, match="not closing"):
        world.apply(Close(KEY, "prod/db", ""))
    with pytest.raises(ImpossibleError, match="not closing"):
        world.apply(Assign(KEY, local(), ""))


def test_two_sockets_of_one_tunnel_are_detected() -> None:
    world = World()
    world.settled(target(), local("prod/a", 1), local("prod/b", 1, host="127.0.0.2"))
    world.set_desired(desired(target(), local("prod/a", 1, host="127.0.0.2")))
    world.apply(Assign(SocketKey(local(port=1, host="127.0.0.2").listen, 0), local("prod/a", 1, host="127.0.0.2"), ""))
    with pytest.raises(ImpossibleError, match="one socket for one tunnel"):
        world.check()


def test_a_link_may_be_retired_once() -> None:
    world = World()
    world.settled(target(), local())
    world.apply(Retire(1, "prod", ""))
    with pytest.raises(ImpossibleError, match="not retiring"):
        world.apply(Retire(1, "prod", ""))


def test_a_lost_link_takes_its_clients_and_remote_sockets_with_it() -> None:
    world = World()
    world.settled(target(), local(), remote())
    world.arrive("prod/db")
    world.lose(1, REFUSED)
    seen = world.observe()
    assert (seen.links, seen.flows) == ((), ())
    assert [socket.owner.id for socket in seen.sockets.values()] == ["prod/db"]
    assert seen.link_tries["prod"].at_once


def test_a_client_without_a_link_is_held_until_one_is_up_or_it_gives_up() -> None:
    world = World()
    world.edit(target(), local())
    world.finish(KEY)
    assert world.arrive("prod/db") is None
    assert world.observe().demand["prod"].held == 1
    world.give_up()
    assert world.observe().demand["prod"].held == 0
    world.arrive("prod/db")
    world.finish(1)
    assert world.observe().demand["prod"].held == 0
    assert [flow.count for flow in world.observe().flows] == [1]


def test_a_client_of_a_tunnel_that_does_not_listen_is_refused() -> None:
    world = World()
    world.edit(target(), local())
    assert world.arrive("prod/db") is None
    assert not world.observe().demand


def test_clients_are_spread_over_the_connections() -> None:
    world = World()
    world.settled(target(connections=2), local())
    for _ in range(4):
        world.arrive("prod/db")
    assert {flow.key.link: flow.count for flow in world.observe().flows} == {1: 2, 2: 2}


def test_only_clients_of_the_socket_change_owner_with_it() -> None:
    """Two listeners have one route. One is renamed; the clients of the other keep their tunnel."""
    world = World()
    world.settled(target(), local("prod/a", 1), local("prod/b", 2))
    world.arrive("prod/a")
    world.arrive("prod/b")
    world.settled(target(), local("prod/c", 1), local("prod/b", 2))
    assert sorted(flow.key.tunnel for flow in world.observe().flows) == ["prod/b", "prod/c"]


def test_a_simulator_continues_from_an_observed_state() -> None:
    world = World()
    world.settled(target(), local(), remote())
    world.arrive("prod/db")
    world.edit(target(generation=1), local(port=1), remote())
    seen = world.observe()
    other = Simulator(seen, world.now(), instant=False)
    assert other.observe() == seen
    assert set(other.under_way()) == set(world.under_way())
    other.settle()
    assert {link.phase for link in other.observe().links} == {LinkPhase.READY}
    assert {socket.phase for socket in other.observe().sockets.values()} == {SocketPhase.BOUND}


def test_elapse_moves_both_clocks_and_jump_only_the_wall_clock() -> None:
    world = World()
    world.elapse(5)
    world.jump(-100)
    assert world.now() == Now(START.mono + 5, START.wall - 95)
