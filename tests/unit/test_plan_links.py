"""Connections: how many, to which host, when they are tried again, and what a remote listener does about it."""

import math
from itertools import pairwise

import pytest

from reconciler.core import backoff
from reconciler.core.actions import Dial
from reconciler.core.observed import Failure, LinkPhase, Reason, SocketPhase
from reconciler.core.spec import Endpoint
from unit.build import AUTH, CLOSED, REFUSED, TIMEOUT, World, local, remote, target, told


@pytest.fixture
def world() -> World:
    return World()


def kill(world: World) -> None:
    world.lose(world.links(LinkPhase.READY)[0].id, CLOSED)


def test_a_failure_that_ends_by_itself_is_retried_at_that_moment(world: World) -> None:
    world.edit(target(), local())
    starts = world.now().wall + 30
    world.finish(world.link().id, Failure(Reason.CERTIFICATE_EXPIRED, "not valid yet", ends_at=starts))
    assert told(world.passes()) == []
    assert world.wake_at() - world.now().mono == pytest.approx(30)
    assert told(world.wait(29)) == []
    assert told(world.wait(1)) == ["dial prod"]


def test_a_failure_that_ends_in_days_is_retried_with_backoff(world: World) -> None:
    world.edit(target(), local())
    starts = world.now().wall + 1e6
    for _ in range(3):
        world.finish(world.link().id, Failure(Reason.CERTIFICATE_EXPIRED, "not valid yet", ends_at=starts))
        world.passes()
        assert world.wake_at() - world.now().mono <= 60
        while not world.links():
            world.wait(world.wake_at() - world.now().mono)


# --- coming back ---


def test_a_lost_connection_is_dialled_again_at_once_and_the_port_stays_bound(world: World) -> None:
    world.settled(target(), local())
    world.wait(60)
    kill(world)
    assert told(world.passes()) == ["dial prod"]
    assert world.socket().phase is SocketPhase.BOUND


def test_a_session_that_lived_a_second_is_retried_at_once_ten_times(world: World) -> None:
    world.settled(target(), local())
    for _ in range(10):
        world.wait(1.0)
        kill(world)
        assert told(world.all_well()) == ["dial prod"]


def test_a_short_lived_session_is_retried_within_200_ms_for_10_s(world: World) -> None:
    """The first losses at once; then often, but not in a tight loop: a server that accepts and drops us is spared."""
    world.settled(target(), local())
    for _ in range(backoff.AT_ONCE_LOSSES + 1):
        kill(world)
        assert told(world.all_well()) == ["dial prod"]
    began = world.now().mono
    tries = 0
    while world.now().mono - began < 9.5:
        kill(world)
        assert told(world.passes()) == []
        assert 0.1 < world.wake_at() - world.now().mono <= 0.2
        assert told(world.wait(0.2)) == ["dial prod"]
        world.all_well()
        tries += 1
    assert tries > 40


def test_being_up_for_a_moment_does_not_end_the_outage(world: World) -> None:
    """A server that accepts and drops us ten times a second for minutes is not asked five times a second."""
    world.settled(target(), local())
    waits = []
    for _ in range(200):
        kill(world)
        world.passes()
        if not world.links():
            waits.append(world.wake_at() - world.now().mono)
            world.wait(waits[-1])
        world.all_well()
    assert waits[-1] > 5
    world.wait(10)
    kill(world)
    assert told(world.passes()) == ["dial prod"]


def test_a_link_that_was_up_long_enough_begins_a_new_outage(world: World) -> None:
    world.edit(target(), local())
    for _ in range(5):
        world.finish(world.link().id, REFUSED)
        world.wait(30)
    assert world.observe().link_tries["prod"].failures == 5
    world.all_well()
    world.wait(9.9)
    assert world.observe().link_tries["prod"].failures == 5
    world.wait(0.2)
    assert not world.observe().link_tries


def test_a_refused_dial_is_retried_within_200_ms_then_backs_off(world: World) -> None:
    world.edit(target(), local())
    began, dials = world.now().mono, [0.0]
    while world.now().mono - began < 300:
        world.finish(world.link().id, REFUSED)
        while not world.links():
            world.wait(world.wake_at() - world.now().mono)
        dials.append(world.now().mono - began)
    gaps = [(at, after - at) for at, after in pairwise(dials)]
    assert all(gap <= 0.2 for at, gap in gaps if at < 10)
    assert all(gap <= 0.11 * at for at, gap in gaps if at >= 10)
    assert max(gap for _, gap in gaps) > 15
    assert max(gap for _, gap in gaps) <= 30


def test_while_a_client_is_held_a_refused_dial_is_retried_within_two_seconds(world: World) -> None:
    """The client itself is the reason to look again: the wait shortens when it comes."""
    world.edit(target(), local())
    world.settle()  # the socket; the dial is refused from here on
    kill(world)
    world.unreachable.add(Endpoint("prod.example.com", 22))
    world.passes()
    for _ in range(100):
        world.settle()
        world.wait(5)
    world.settle()
    assert world.wake_at() - world.now().mono > 2
    world.wait(3)
    world.arrive("prod/db")
    assert told(world.passes()) == ["dial prod"]
    world.settle()
    assert world.wake_at() - world.now().mono <= 2


def test_a_held_client_does_not_shorten_a_guarded_delay(world: World) -> None:
    world.settled(target(), local())
    kill(world)
    world.passes()
    world.finish(world.link().id, AUTH)
    world.arrive("prod/db")
    assert told(world.wait(47)) == []
    assert told(world.wait(14)) == ["dial prod"]


def test_a_guarded_failure_is_retried_once_when_its_file_changes(world: World) -> None:
    world.fingerprints["prod"] = "key v1"
    world.edit(target(), local())
    world.finish(world.link().id, AUTH)
    assert told(world.wait(30)) == []
    world.fingerprints["prod"] = "key v2"
    assert told(world.passes()) == ["dial prod"]
    world.finish(world.link().id, AUTH)
    assert told(world.wait(60)) == []


def test_a_changed_file_does_not_shorten_a_slow_delay(world: World) -> None:
    world.edit(target(), local())
    world.finish(world.link().id, TIMEOUT)
    world.fingerprints["prod"] = "new"
    assert told(world.passes()) == []


# --- several connections ---


def test_a_target_with_several_connections_dials_them_all(world: World) -> None:
    assert told(world.settled(target(connections=3), local())).count("dial prod") == 3
    assert [link.phase for link in world.links()] == [LinkPhase.READY] * 3


def test_more_connections_are_added_and_none_is_touched(world: World) -> None:
    world.settled(target(connections=1), local())
    assert told(world.settled(target(connections=3), local())) == ["dial prod", "dial prod"]


def test_fewer_connections_retire_the_idle_ones_first(world: World) -> None:
    world.settled(target(connections=3), local())
    clients = [world.arrive("prod/db") for _ in range(3)]
    assert clients[1] is not None
    world.leave(clients[1])
    assert told(world.settled(target(connections=2), local())) == ["retire 2"]
    assert told(world.settled(target(connections=1), local())) == ["retire 3", "drain prod/db"]


def test_after_a_failure_connections_are_dialled_one_at_a_time(world: World) -> None:
    world.edit(target(connections=3), local())
    for link in world.links():
        world.finish(link.id, TIMEOUT)
    assert told(world.wait(5)) == ["dial prod"]
    world.finish(world.link().id, TIMEOUT)
    assert told(world.wait(5)) == ["dial prod"]
    world.finish(world.link().id)
    assert told(world.passes()) == ["dial prod"]  # it is well again: the next one need not wait
    assert told(world.all_well()) == ["dial prod"]


def test_several_lost_connections_are_all_dialled_again_at_once(world: World) -> None:
    world.settled(target(connections=3), local())
    world.wait(60)
    for _ in range(3):
        kill(world)
    assert told(world.passes()) == ["dial prod"] * 3


def test_surplus_dials_are_cancelled(world: World) -> None:
    world.edit(target(connections=3), local())
    world.edit(target(connections=1), local())
    world.finish(2)
    assert told(world.passes()) == ["retire 1", "retire 3"]


def test_all_connections_are_replaced_before_any_is_retired(world: World) -> None:
    world.settled(target(connections=2), local())
    world.edit(target(connections=2, user="other"), local())
    assert [link.id for link in world.links(LinkPhase.DIALING)] == [3, 4]
    world.finish(4)
    assert world.passes() == []
    world.finish(3)
    assert told(world.passes()) == ["retire 1", "retire 2"]


# --- several hosts: failover and fail-back ---

HOSTS = ("first", "second", "third")


def hosts(world: World) -> list[str]:
    """Where the ready connections lead."""
    return [HOSTS[link.host] for link in world.links(LinkPhase.READY)]


def down(world: World, *names: str) -> None:
    world.unreachable = {Endpoint(name, 22) for name in names}


def test_the_first_host_that_can_be_reached_is_used(world: World) -> None:
    down(world, "first")
    world.settled(target(hosts=HOSTS), local())
    assert hosts(world) == ["second"]


def test_a_link_fails_back_to_a_preferred_host(world: World) -> None:
    down(world, "first", "second")
    world.settled(target(hosts=HOSTS), local())
    world.arrive("prod/db")
    down(world, "first")
    assert told(world.wait(59.9)) == []
    (dial,) = world.wait(0.2)
    assert isinstance(dial, Dial)
    assert dial.limit == 2  # only the better ones
    assert hosts(world) == ["third"]
    assert told(world.all_well()) == ["retire 1", "drain prod/db"]
    assert hosts(world) == ["second"]


def test_a_dead_preferred_host_is_tried_once_a_minute(world: World) -> None:
    down(world, "first")
    world.settled(target(hosts=HOSTS), local())
    world.arrive("prod/db")
    dials = 0
    for _ in range(600):
        steps = told(world.wait(1))
        assert set(steps) <= {"dial prod"}
        dials += len(steps)
        world.settle()
    assert dials == 10
    assert [link.id for link in world.links()] == [1]


def test_a_flapping_preferred_host_moves_clients_once_a_minute(world: World) -> None:
    down(world, "first")
    world.settled(target(hosts=HOSTS), local())
    moves = 0
    for second in range(600):
        down(world, *(() if second % 26 < 13 else ("first",)))
        for link in world.links(LinkPhase.READY):
            if HOSTS[link.host] == "first" and second % 26 == 13:
                world.lose(link.id, CLOSED)
                moves += 1
        world.wait(1)
        world.all_well()
        assert hosts(world)
    assert 2 <= moves <= 10


def test_no_link_is_retired_until_all_reached_the_preferred_host(world: World) -> None:
    down(world, "first")
    world.settled(target(hosts=HOSTS, connections=2), local())
    down(world)
    world.wait(61)
    world.finish(3)
    (dial,) = world.passes()
    assert isinstance(dial, Dial)
    assert dial.limit == 1  # where the first one is, and no further
    assert hosts(world) == ["second", "second", "first"]
    world.finish(4)
    assert told(world.passes()) == ["retire 1", "retire 2"]


def test_a_lost_link_is_replaced_during_a_fail_back(world: World) -> None:
    """The preferred host may be black-holed: the dial to it can take its whole timeout."""
    down(world, "first")
    world.settled(target(hosts=HOSTS), local())
    assert told(world.wait(61)) == ["dial prod"]
    kill(world)
    (dial,) = world.passes()
    assert isinstance(dial, Dial)
    assert dial.limit == 3


def test_a_single_host_never_fails_back(world: World) -> None:
    world.settled(target(), local())
    assert world.wake_at() == math.inf


# --- on demand ---


def test_an_on_demand_target_is_dialled_for_its_first_client(world: World) -> None:
    assert told(world.settled(target(on_demand=60.0), local())) == ["open 127.0.0.1:5432 for prod/db"]
    assert world.wake_at() == math.inf
    assert world.arrive("prod/db") is None  # held
    assert told(world.all_well()) == ["dial prod"]
    assert [flow.count for flow in world.observe().flows] == [1]


def test_an_on_demand_connection_is_closed_when_idle_and_not_before(world: World) -> None:
    world.settled(target(on_demand=60.0), local())
    world.arrive("prod/db")
    world.all_well()
    assert told(world.wait(600)) == []
    (flow,) = world.observe().flows
    world.leave(flow.key)
    assert world.wake_at() == world.now().mono + 60
    assert told(world.wait(59.9)) == []
    assert told(world.wait(0.2)) == ["retire 1"]
    assert world.socket().phase is SocketPhase.BOUND
    world.all_well()
    assert world.wake_at() == math.inf


def test_an_on_demand_target_that_lost_its_connection_while_idle_is_not_dialled(world: World) -> None:
    world.settled(target(on_demand=60.0), local())
    world.arrive("prod/db")
    world.all_well()
    world.leave(world.observe().flows[0].key)
    world.wait(59)
    kill(world)
    world.wait(0.5)
    assert told(world.wait(600)) == ["retire 2"]  # it was still in demand for a second


def test_a_client_held_longer_than_the_idle_time_still_counts(world: World) -> None:
    world.settled(target(on_demand=5.0), local())
    world.arrive("prod/db")
    for _ in range(6):
        assert told(world.wait(10)) == ["dial prod"]
        world.finish(world.link().id, REFUSED)
    world.give_up()
    assert told(world.wait(60)) == []


def test_an_on_demand_target_with_a_remote_listener_stays_connected(world: World) -> None:
    """The server must listen before the first client comes; nothing else could."""
    assert told(world.settled(target(on_demand=60.0), remote())) == [
        "dial prod",
        "open 127.0.0.1:8080 on prod for prod/web",
    ]
    assert told(world.wait(3600)) == []


# --- remote listeners ---


def test_a_remote_listener_waits_for_a_connection(world: World) -> None:
    assert told(world.edit(target(), remote())) == ["dial prod"]
    world.finish(world.link().id)
    assert told(world.passes()) == ["open 127.0.0.1:8080 on prod for prod/web"]


def test_a_remote_listener_moves_to_the_connection_that_replaces_its_own(world: World) -> None:
    world.settled(target(), remote())
    world.arrive("prod/web")
    steps = told(world.settled(target(generation=1), remote()))
    assert steps == ["dial prod", "retire 1", "move 127.0.0.1:8080 on prod to 2", "drain prod/web"]
    assert world.socket().link == 2


def test_a_remote_listener_that_is_still_opening_moves_when_it_is_open(world: World) -> None:
    world.edit(target(), remote())
    world.finish(1)
    world.edit(target(generation=1), remote())
    world.finish(2)
    assert told(world.passes()) == ["retire 1"]
    world.finish(world.socket().key)
    assert told(world.passes()) == ["move 127.0.0.1:8080 on prod to 2"]


def test_a_remote_listener_lost_with_its_connection_is_opened_on_the_next(world: World) -> None:
    world.settled(target(), remote())
    world.wait(60)
    kill(world)
    assert world.sockets() == []
    assert told(world.all_well()) == ["dial prod", "open 127.0.0.1:8080 on prod for prod/web"]


def test_a_remote_listener_is_opened_on_the_other_connection_if_there_is_one(world: World) -> None:
    world.settled(target(connections=2), remote())
    world.wait(60)
    kill(world)
    assert told(world.passes()) == ["dial prod", "open 127.0.0.1:8080 on prod for prod/web"]
    assert world.socket().link == 2


def test_a_remote_port_that_the_server_still_holds_is_asked_for_every_second(world: World) -> None:
    listen = remote().listen
    world.settled(target(), remote())
    world.wait(60)
    world.busy.add(listen)
    kill(world)
    world.all_well()
    for _ in range(5):
        assert told(world.wait(1)) == ["open 127.0.0.1:8080 on prod for prod/web"]
        world.settle()
    world.busy.clear()
    world.wait(1)
    world.all_well()
    assert world.socket().phase is SocketPhase.BOUND


def test_a_forbidden_remote_port_is_retried_with_growing_delays(world: World) -> None:
    world.edit(target(), remote())
    world.finish(world.link().id)
    waits = []
    for _ in range(12):
        world.passes()
        world.finish(world.socket().key, Failure(Reason.FORBIDDEN_BY_SERVER, "AllowTcpForwarding no"))
        waits.append(world.wake_at() - world.now().mono)
        world.wait(waits[-1])
    assert waits[0] <= 1
    assert waits == sorted(waits[:6]) + waits[6:]
    assert 48 <= waits[-1] <= 60


def test_a_move_that_fails_is_tried_again(world: World) -> None:
    world.settled(target(), remote())
    world.edit(target(generation=1), remote())
    world.finish(2)
    world.passes()
    world.finish(world.socket().key, Failure(Reason.REMOTE_PORT_IN_USE, "taken"))
    world.settle()
    assert told(world.wait(1)) == ["open 127.0.0.1:8080 on prod for prod/web"]


def test_another_route_and_another_connection_at_once_move_the_listener_once(world: World) -> None:
    world.settled(target(), remote(to=1))
    steps = told(world.settled(target(generation=1), remote(to=2)))
    assert steps == [
        "assign 127.0.0.1:8080 on prod to prod/web",
        "dial prod",
        "retire 1",
        "move 127.0.0.1:8080 on prod to 2",
    ]


def test_a_standby_retries_its_port_until_it_is_free(world: World) -> None:
    world.busy.add(remote().listen)
    world.settled(target(), remote(standby=True))
    assert len(world.wait(10)) == 1
    world.settle()
    world.busy.clear()
    world.wait(1)
    world.all_well()
    assert world.socket().phase is SocketPhase.BOUND


def test_a_removed_remote_listener_closes_and_the_connection_goes_when_it_is_closed(world: World) -> None:
    world.settled(target(), remote())
    assert told(world.edit()) == ["retire 1", "close 127.0.0.1:8080 on prod"]
    assert world.under_way() == (world.socket().key,)
    world.settle()
    assert world.links() == []


# --- a connection in doubt ---


def test_a_replacement_is_dialled_while_a_connection_is_in_doubt(world: World) -> None:
    world.settled(target(), local())
    [old] = world.links()
    world.stalled.add(old.id)
    assert told(world.all_well()) == ["dial prod"]
    assert len(world.links(LinkPhase.READY)) == 2
    assert told(world.wait(3600)) == []  # the one in doubt ends by itself


def test_the_one_that_answers_first_is_kept(world: World) -> None:
    world.settled(target(), local())
    [old] = world.links()
    world.stalled.add(old.id)
    assert told(world.passes()) == ["dial prod"]
    world.stalled.clear()
    assert told(world.all_well()) == ["retire 2"]
    assert world.link() == old


def test_one_of_two_is_retired_when_both_answer(world: World) -> None:
    world.settled(target(), local())
    [old] = world.links()
    world.stalled.add(old.id)
    world.all_well()
    world.stalled.clear()
    assert told(world.all_well()) == ["retire 2"]
    assert world.link() == old  # without clients, the older one


def test_a_failed_replacement_is_retried_with_backoff(world: World) -> None:
    world.settled(target(), local())
    [old] = world.links()
    world.stalled.add(old.id)
    assert told(world.passes()) == ["dial prod"]
    waits = []
    for _ in range(4):
        world.finish(world.links(LinkPhase.DIALING)[0].id, TIMEOUT)
        assert told(world.passes()) == []
        waits.append(world.wake_at() - world.now().mono)
        assert told(world.wait(waits[-1])) == ["dial prod"]
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_connections_that_all_fall_silent_are_replaced_once(world: World) -> None:
    world.settled(target(connections=2), local())
    for _ in range(3):
        world.stalled.update(link.id for link in world.links())
        world.all_well()
    assert len(world.links()) == 4


def test_a_host_in_doubt_is_replaced_by_the_next_one_and_comes_back(world: World) -> None:
    world.settled(target(hosts=("a", "b")), local())
    [old] = world.links()
    world.stalled.add(old.id)
    world.unreachable.add(Endpoint("a", 22))
    world.all_well()
    assert sorted(link.host for link in world.links(LinkPhase.READY)) == [0, 1]
    world.stalled.clear()
    assert told(world.all_well()) == ["retire 2"]
    assert world.link() == old


def test_a_connection_in_doubt_keeps_its_remote_listener_and_gets_no_other(world: World) -> None:
    world.settled(target(), remote("prod/one", 1))
    [old] = world.links()
    world.stalled.add(old.id)
    world.all_well()
    assert world.socket().link == old.id
    world.settled(target(), remote("prod/one", 1), remote("prod/two", 2))
    assert world.socket_of("prod/two").link != old.id
