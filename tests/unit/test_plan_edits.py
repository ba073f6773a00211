"""What an edit does: each row of the table in docs/architecture.md, in a simulator."""

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.observed import DrainCause, Failure, LinkPhase, Reason, SocketPhase
from reconciler.core.off import DISABLED, Off, OffCause
from reconciler.core.overlay import Overlay
from reconciler.core.plan import make_plan
from reconciler.core.spec import FarTcp, FarUnix, LocalUnix, NearUnix, RemoteUnix
from unit.build import AUTH, CLOSED, REFUSED, World, desired, local, remote, socks, target, told, tunnel


@pytest.fixture
def world() -> World:
    return World()


def test_from_nothing_every_listener_is_opened_and_every_target_dialled_at_once(world: World) -> None:
    steps = world.edit(target("a"), target("b"), local("a/x", 1), local("b/y", 2), socks("b/z", 3))
    assert sorted(told(steps)) == [
        "dial a",
        "dial b",
        "open 127.0.0.1:1 for a/x",
        "open 127.0.0.1:2 for b/y",
        "open 127.0.0.1:3 for b/z",
    ]
    assert world.edit(*world.asked.targets.values(), *world.asked.tunnels.values()) == []


def test_a_target_without_tunnels_is_not_dialled(world: World) -> None:
    assert world.edit(target("a"), target("b"), local("a/x")) != []
    assert [link.target for link in world.links()] == ["a"]


# --- in place ---


@pytest.mark.parametrize(
    "change",
    [
        {"description": "new"},
        {"labels": (("team", "data"),)},
        {"critical": False},
        {"allow": ("10.0.0.0/8",)},
        {"deny_destinations": ("*:22",)},
        {"max_connections": 1},
        {"hold_timeout": 0.0},
        {"bandwidth_limit": 1024},
        {"audit": True},
        {"expires_at": 1_900_000_000.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_policy_edit_is_in_place_and_keeps_clients(world: World, change: dict[str, Any]) -> None:
    world.settled(target(), local())
    client = world.arrive("prod/db")
    assert told(world.settled(target(), local(**change))) == ["assign 127.0.0.1:5432 to prod/db"]
    assert world.socket().owner == local(**change)
    (flow,) = world.observe().flows
    assert (flow.key, flow.draining) == (client, None)


def test_a_removed_tunnel_drains_with_its_latest_drain_timeout(world: World) -> None:
    world.settled(target(), local(drain_timeout=30.0))
    world.arrive("prod/db")
    world.settled(target(), local(drain_timeout=5.0))
    world.settled(target())
    assert told(world.wait(4.9)) == []
    assert "cut prod/db" in told(world.wait(0.2))


def test_settings_of_a_target_change_in_place(world: World) -> None:
    world.settled(target(), local())
    assert told(world.settled(target(keepalive_interval=5.0), local())) == ["tune 1"]
    assert world.link().settings.keepalive_interval == 5.0


def test_settings_also_change_on_a_link_that_is_being_replaced(world: World) -> None:
    world.settled(target(), local())
    world.edit(target(user="other"), local())
    assert told(world.edit(target(user="other", dial_timeout=1.0), local())) == ["tune 1"]


@pytest.mark.parametrize("listener", [local, remote], ids=["local", "remote"])
def test_another_destination_takes_new_clients_at_once_and_drains_the_old(world: World, listener: type) -> None:
    """The port never closes; old clients go to the old place until they are done or their time is up."""
    world.settled(target(), listener("prod/x", to=1 if listener is remote else "old"))
    old = world.arrive("prod/x")
    steps = told(world.edit(target(), listener("prod/x", to=2 if listener is remote else "new")))
    assert [step.split()[0] for step in steps] == ["assign", "drain"]
    new = world.arrive("prod/x")
    assert old is not None
    assert new is not None
    assert old.route != new.route
    assert {flow.key: flow.draining and flow.draining.cause for flow in world.observe().flows} == {
        old: DrainCause.ROUTE,
        new: None,
    }
    assert told(world.wait(29.9)) == []
    assert told(world.wait(0.2)) == ["cut prod/x"]
    assert [flow.key for flow in world.observe().flows] == [new]


def test_a_destination_put_back_revives_its_clients(world: World) -> None:
    world.settled(target(), local(to="old"))
    world.arrive("prod/db")
    world.settled(target(), local(to="new"))
    assert told(world.settled(target(), local(to="old"))) == ["assign 127.0.0.1:5432 to prod/db", "revive prod/db"]


def test_another_target_for_a_port_is_in_place(world: World) -> None:
    """The tunnel is another one by name, but the socket is the same one."""
    world.settled(target("a"), target("b"), local("a/db"), local("b/other", 1))
    world.arrive("a/db")
    steps = told(world.settled(target("a"), target("b"), local("b/db"), local("b/other", 1)))
    assert steps == ["assign 127.0.0.1:5432 to b/db", "drain a/db"]
    assert told(world.wait(30)) == ["cut a/db", "retire 1"]


# --- names ---


def test_a_rename_keeps_the_socket_and_the_clients(world: World) -> None:
    world.settled(target(), local("prod/old"))
    world.arrive("prod/old")
    assert told(world.settled(target(), local("prod/new"))) == ["assign 127.0.0.1:5432 to prod/new"]
    (flow,) = world.observe().flows
    assert (flow.key.tunnel, flow.draining) == ("prod/new", None)


def test_two_tunnels_swap_ports_in_one_edit(world: World) -> None:
    world.settled(target(), local("prod/a", 1, to="x"), local("prod/b", 2, to="y"))
    for name in ("prod/a", "prod/b"):
        world.arrive(name)
    steps = world.settled(target(), local("prod/a", 2, to="x"), local("prod/b", 1, to="y"))
    assert sorted(told(steps)) == ["assign 127.0.0.1:1 to prod/b", "assign 127.0.0.1:2 to prod/a"]
    assert {flow.key.tunnel: flow.draining for flow in world.observe().flows} == {"prod/a": None, "prod/b": None}


def test_three_tunnels_rotate_their_ports(world: World) -> None:
    world.settled(target(), *(local(f"prod/{n}", p, to=n) for n, p in zip("abc", (1, 2, 3), strict=True)))
    steps = world.settled(target(), *(local(f"prod/{n}", p, to=n) for n, p in zip("abc", (2, 3, 1), strict=True)))
    assert {step.split()[0] for step in told(steps)} == {"assign"}
    assert len(steps) == 3


def test_a_port_passes_to_another_tunnel_while_its_owner_moves_to_a_new_one(world: World) -> None:
    world.settled(target(), local("prod/a", 1, to="x"))
    steps = world.settled(target(), local("prod/a", 2, to="x"), local("prod/b", 1, to="y"))
    assert told(steps) == ["assign 127.0.0.1:1 to prod/b", "open 127.0.0.1:2 for prod/a"]


@pytest.mark.parametrize("port", [0, (15000, 15100)], ids=["any", "range"])
def test_a_rename_keeps_a_chosen_port(world: World, port: int | tuple[int, int]) -> None:
    world.settled(target(), local("prod/old", port))
    bound = world.socket().bound
    (step,) = told(world.settled(target(), local("prod/new", port)))
    assert step.startswith("assign")
    assert world.socket().bound == bound


def test_a_rename_keeps_a_port_that_the_server_chose(world: World) -> None:
    world.settled(target(), remote("prod/old", 0))
    (step,) = told(world.settled(target(), remote("prod/new", 0)))
    assert step.startswith("assign")


def test_several_renames_at_once_keep_each_its_own_chosen_port(world: World) -> None:
    """By name alone the new ones would be matched crosswise, and both lose their clients."""
    world.settled(target(), local("prod/pg", 0, to="pg"), local("prod/redis", 0, to="redis"))
    bound = {socket.owner.route: socket.bound for socket in world.sockets()}
    world.arrive("prod/pg")
    steps = world.settled(
        target(), local("prod/a", 0, to="new"), local("prod/x", 0, to="redis"), local("prod/z", 0, to="pg")
    )
    assert "drain" not in " ".join(told(steps))
    now = {socket.owner.route: socket.bound for socket in world.sockets()}
    assert {route: now[route] for route in bound} == bound


def test_tunnels_with_a_chosen_port_do_not_take_it_from_one_another(world: World) -> None:
    world.settled(target(), local("prod/b", 0, to="db"))
    bound = world.socket_of("prod/b").bound
    world.settled(target(), local("prod/a", 0, to="db"), local("prod/b", 0, to="db"))
    assert world.socket_of("prod/b").bound == bound
    assert world.socket_of("prod/a").bound != bound


def test_an_edited_tunnel_keeps_its_chosen_port(world: World) -> None:
    """For a moment its socket has no owner; the tunnel that had it takes precedence."""
    world.settled(target(), local("prod/b", 0))
    bound = world.socket().bound
    world.settled(target(), local("prod/a", 0), local("prod/b", 0, critical=False))
    assert world.socket_of("prod/b").bound == bound


def test_a_chosen_port_put_back_does_not_wait_for_the_closing_one(world: World) -> None:
    world.settled(target(), local(port=0), local("prod/other", 1))
    world.edit(target(), local("prod/other", 1))
    assert told(world.edit(target(), local(port=0), local("prod/other", 1))) == [
        "open 127.0.0.1:(any port) for prod/db"
    ]


def test_a_chosen_port_survives_a_new_route(world: World) -> None:
    world.settled(target(), local("prod/a", 0, to="x"), local("prod/b", 0, to="y"))
    bound = {socket.owner.id: socket.bound for socket in world.sockets()}
    world.settled(target(), local("prod/a", 0, to="y"), local("prod/b", 0, to="x"))
    assert {socket.owner.id: socket.bound for socket in world.sockets()} == bound


# --- access: make before break ---


@pytest.mark.parametrize("change", [{"user": "other"}, {"hosts": ("new.example.com",)}, {"generation": 1}])
def test_another_access_is_made_before_the_old_one_is_broken(world: World, change: dict[str, Any]) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    assert told(world.edit(target(**change), local())) == ["dial prod"]
    assert [link.phase for link in world.links()] == [LinkPhase.READY, LinkPhase.DIALING]
    assert told(world.all_well()) == ["retire 1", "drain prod/db"]
    assert [link.phase for link in world.links()] == [LinkPhase.RETIRING, LinkPhase.READY]
    assert world.sockets()[0].phase is SocketPhase.BOUND


def test_clients_on_a_replaced_connection_finish_there_within_the_handover_timeout(world: World) -> None:
    world.settled(target(handover_timeout=3600.0), local())
    client = world.arrive("prod/db")
    world.settled(target(handover_timeout=3600.0, generation=1), local())
    (flow,) = world.observe().flows
    assert flow.draining is not None
    assert flow.draining.cause is DrainCause.LINK
    assert told(world.wait(3599)) == []
    assert world.wake_at() - world.now().mono == pytest.approx(1)
    assert told(world.wait(1.5)) == ["cut prod/db"]
    world.all_well()
    assert [link.id for link in world.links()] == [2]
    assert client is not None


def test_a_replaced_connection_closes_with_its_last_client(world: World) -> None:
    world.settled(target(), local())
    client = world.arrive("prod/db")
    world.settled(target(generation=1), local())
    assert len(world.links()) == 2
    assert client is not None
    world.leave(client)
    world.all_well()
    assert [link.id for link in world.links()] == [2]


def test_the_old_link_serves_while_the_new_access_fails(world: World) -> None:
    world.settled(target(), local(), remote())
    world.arrive("prod/db")
    world.edit(target(user="wrong"), local(), remote())
    for _ in range(3):
        world.finish(world.links(LinkPhase.DIALING)[0].id, AUTH)
        assert "dial prod" in told(world.wait(900))
    assert world.links(LinkPhase.READY)[0].id == 1
    assert [flow.draining for flow in world.observe().flows] == [None]
    assert {socket.phase for socket in world.sockets()} == {SocketPhase.BOUND}


def test_a_new_access_is_dialled_at_once_after_failures_of_the_old(world: World) -> None:
    world.edit(target(user="wrong"), local())
    world.finish(world.link().id, AUTH)
    assert told(world.edit(target(user="right"), local())) == ["dial prod"]


def test_an_access_that_is_put_back_keeps_the_connection_it_had(world: World) -> None:
    world.settled(target(), local())
    world.edit(target(user="other"), local())
    assert told(world.settled(target(), local())) == ["retire 2"]
    assert world.link().id == 1


def test_a_dial_with_an_outdated_access_is_cancelled_at_once(world: World) -> None:
    world.edit(target(user="wrong"), local())
    assert told(world.edit(target(user="right"), local())) == ["retire 1", "dial prod"]


def test_a_link_with_an_untrusted_host_key_is_replaced(world: World) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    world.distrust(1)
    assert told(world.passes()) == ["dial prod"]
    assert told(world.all_well()) == ["retire 1", "drain prod/db"]


def test_a_link_trusted_again_before_its_replacement_stays(world: World) -> None:
    """A known_hosts edit that is reverted: the new dial is cancelled, and no client gets a deadline."""
    world.settled(target(handover_timeout=5.0), local())
    world.arrive("prod/db")
    world.distrust(1)
    assert told(world.passes()) == ["dial prod"]
    world.trust_again(1)
    assert told(world.all_well()) == ["retire 2"]
    assert told(world.wait(3600)) == []
    assert world.link().phase is LinkPhase.READY
    assert [flow.draining for flow in world.observe().flows] == [None]


def test_a_link_trusted_again_is_not_replaced_by_a_late_dial(world: World) -> None:
    world.settled(target(), local())
    world.distrust(1)
    world.passes()
    world.finish(2, AUTH)
    world.trust_again(1)
    assert told(world.wait(3600)) == []


def test_a_link_trusted_again_after_its_replacement_is_not_reused(world: World) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    world.distrust(1)
    assert told(world.all_well()) == ["dial prod", "retire 1", "drain prod/db"]
    world.trust_again(1)
    assert told(world.all_well()) == []
    assert [link.id for link in world.links(LinkPhase.READY)] == [2]


def test_losing_a_link_being_replaced_does_not_shorten_a_guarded_delay(world: World) -> None:
    """What the old access suffers says nothing about the new one, and servers ban guessers."""
    world.settled(target(), local())
    world.edit(target(user="wrong"), local())
    world.finish(2, AUTH)
    world.lose(1, CLOSED)
    assert told(world.wait(45)) == []
    assert told(world.wait(16)) == ["dial prod"]


# --- listen address ---


def test_another_port_closes_the_old_socket_and_opens_a_new_one(world: World) -> None:
    world.settled(target(), local(port=1))
    assert told(world.settled(target(), local(port=2))) == ["close 127.0.0.1:1", "open 127.0.0.1:2 for prod/db"]


def test_clients_of_the_old_port_are_drained(world: World) -> None:
    world.settled(target(), local(port=1))
    old = world.arrive("prod/db")
    world.settled(target(), local(port=2))
    new = world.arrive("prod/db")
    assert {flow.key: flow.draining is not None for flow in world.observe().flows} == {old: True, new: False}
    assert told(world.wait(30.1)) == ["cut prod/db"]
    assert [flow.key for flow in world.observe().flows] == [new]


@pytest.mark.parametrize(("old", "new"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("::1", "::")])
def test_an_overlapping_address_waits_until_the_old_one_is_released(world: World, old: str, new: str) -> None:
    world.settled(target(), local(host=old))
    (step,) = told(world.edit(target(), local(host=new)))
    assert step.startswith("close")
    assert world.wait(60) == []
    assert [step.split()[0] for step in told(world.all_well())] == ["open"]


def test_an_ipv6_wildcard_does_not_wait_for_an_ipv4_address(world: World) -> None:
    world.settled(target(), local(host="127.0.0.1"))
    steps = told(world.edit(target(), local(host="::")))
    assert steps == ["close 127.0.0.1:5432", "open [::]:5432 for prod/db"]


def test_two_tunnels_exchange_overlapping_addresses(world: World) -> None:
    world.settled(target(), local("prod/a", 1, host="0.0.0.0"), local("prod/b", 2, host="127.0.0.1"))
    world.settled(target(), local("prod/a", 2, host="0.0.0.0"), local("prod/b", 1, host="127.0.0.1"))
    assert {socket.owner.id: socket.bound for socket in world.sockets()} == {
        "prod/a": "0.0.0.0:2",
        "prod/b": "127.0.0.1:1",
    }


def test_of_two_tunnels_that_overlap_one_listens_and_the_other_waits(world: World) -> None:
    """The file is checked for that; should two come through nevertheless, they do not fight."""
    asked = (target(), local("prod/a", host="127.0.0.1"), local("prod/b", host="0.0.0.0"))
    assert told(world.settled(*asked)) == ["dial prod", "open 127.0.0.1:5432 for prod/a"]
    assert world.wait(60) == []
    assert "open 0.0.0.0:5432 for prod/b" in told(world.settled(asked[0], asked[2]))


def test_the_order_of_the_file_does_not_decide_who_gets_which_socket(world: World) -> None:
    tunnels = [local("prod/b", 0), local("prod/a", 0)]
    plans = [make_plan(desired(target(), *some), world.observe(), world.now()) for some in (tunnels, tunnels[::-1])]
    assert plans[0] == plans[1]


def test_other_permissions_of_a_unix_socket_are_another_socket(world: World) -> None:
    route = FarTcp("prod", "db", 5432)
    world.settled(target(), tunnel("prod/u", LocalUnix("/run/x", 0o600, ""), route))
    assert told(world.edit(target(), tunnel("prod/u", LocalUnix("/run/x", 0o660, ""), route))) == ["close /run/x"]
    assert told(world.all_well()) == ["open /run/x for prod/u"]


def test_another_type_on_the_same_address_keeps_the_socket_and_drains(world: World) -> None:
    """`type` changes the route; the listener knows nothing of it."""
    world.settled(target(), local("prod/x", 1080))
    world.arrive("prod/x")
    assert told(world.settled(target(), socks("prod/x", 1080))) == ["assign 127.0.0.1:1080 to prod/x", "drain prod/x"]


def test_a_remote_unix_socket_is_planned_like_a_remote_port(world: World) -> None:
    there = tunnel("prod/u", RemoteUnix("prod", "/run/there"), NearUnix("/run/here"))
    assert told(world.settled(target(), there)) == ["dial prod", "open /run/there on prod for prod/u"]
    assert told(world.settled(target(generation=1), there)) == [
        "dial prod",
        "retire 1",
        "move /run/there on prod to 2",
    ]


def test_a_unix_socket_as_destination_is_a_route_like_any_other(world: World) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    steps = told(world.settled(target(), replace(local(), route=FarUnix("prod", "/run/pg"))))
    assert steps == ["assign 127.0.0.1:5432 to prod/db", "drain prod/db"]


# --- gone: removed, disabled, paused, expired ---


def gone(how: str, world: World) -> list[str]:
    match how:
        case "removed":
            return told(world.settled(target()))
        case "tunnel disabled":
            return told(world.settled(target(), local(off=DISABLED)))
        case "target disabled":
            return told(world.settled(target(off=DISABLED), local()))
        case "target removed":
            return told(world.settled())
        case "paused":
            world.asked = Overlay(pauses={"prod/db": Off(OffCause.PAUSED)}).over(world.asked)
            return told(world.all_well())
        case _:
            return told(world.settled(target(), local(expires_at=world.now().wall)))


GONE = pytest.mark.parametrize(
    "how", ["removed", "tunnel disabled", "target disabled", "target removed", "paused", "expired"]
)


@GONE
def test_an_unwanted_tunnel_closes_drains_and_is_cut_at_its_deadline(world: World, how: str) -> None:
    world.settled(target(), local(drain_timeout=30.0))
    world.arrive("prod/db")
    assert gone(how, world) == ["close 127.0.0.1:5432", "drain prod/db"]
    assert world.sockets() == []
    assert told(world.wait(29.9)) == []
    assert told(world.wait(0.2)) == ["cut prod/db", "retire 1"]
    world.all_well()
    assert world.links() == []
    assert world.wake_at() == float("inf")


def test_the_end_of_a_timed_pause_is_planned(world: World) -> None:
    world.settled(target(), local(off=Off(OffCause.PAUSED, world.now().wall + 30.0)))
    assert world.wake_at() == pytest.approx(world.now().mono + 30.0)


@GONE
def test_a_tunnel_put_back_while_draining_keeps_its_clients(world: World, how: str) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    gone(how, world)
    world.wait(20)
    steps = told(world.settled(target(), local()))
    assert steps == ["revive prod/db", "open 127.0.0.1:5432 for prod/db"]
    assert told(world.wait(3600)) == []
    assert world.link().id == 1


def test_a_socket_put_back_while_closing_opens_again(world: World) -> None:
    world.settled(target(), local())
    world.edit(target())
    assert told(world.edit(target(), local())) == ["dial prod"]
    assert told(world.all_well()) == ["open 127.0.0.1:5432 for prod/db"]


def test_without_clients_everything_closes_at_once(world: World) -> None:
    world.settled(target(), local(), remote())
    assert sorted(told(world.settled())) == ["close 127.0.0.1:5432", "close 127.0.0.1:8080 on prod", "retire 1"]
    assert world.links() == []
    assert world.sockets() == []


def test_a_drain_timeout_of_zero_cuts_at_once(world: World) -> None:
    world.settled(target(), local(drain_timeout=0.0))
    world.arrive("prod/db")
    assert told(world.settled(target())) == ["close 127.0.0.1:5432", "drain prod/db", "cut prod/db", "retire 1"]


def test_handed_over_then_removed_clients_have_the_earlier_deadline(world: World) -> None:
    world.settled(target(handover_timeout=10.0), local())
    world.arrive("prod/db")
    world.settled(target(handover_timeout=10.0, generation=1), local())
    world.wait(5)
    world.settled(target(handover_timeout=10.0, generation=1))
    assert told(world.wait(4.9)) == []
    assert "cut prod/db" in told(world.wait(0.2))


def test_removed_then_handed_over_clients_have_the_earlier_deadline(world: World) -> None:
    """One edit that removes their tunnel and changes the way to its target: the connection is replaced later."""
    world.settled(target(handover_timeout=3.0), local(drain_timeout=20.0), local("prod/keep", 1))
    world.arrive("prod/db")
    world.edit(target(handover_timeout=3.0, generation=1), local("prod/keep", 1))
    world.wait(5)
    world.all_well()
    assert told(world.wait(2.9)) == []
    assert "cut prod/db" in told(world.wait(0.2))


def test_clients_removed_and_then_handed_over_for_longer_keep_their_deadline(world: World) -> None:
    world.settled(target(), local(drain_timeout=20.0), local("prod/keep", 1))
    world.arrive("prod/db")
    world.edit(target(generation=1), local("prod/keep", 1))
    world.wait(5)
    world.all_well()
    assert told(world.wait(14.9)) == []
    assert "cut prod/db" in told(world.wait(0.2))


def test_clients_put_back_on_a_replaced_link_have_its_deadline(world: World) -> None:
    world.settled(target(handover_timeout=10.0), local())
    world.arrive("prod/db")
    world.settled(target(handover_timeout=10.0, generation=1), local())
    world.settled(target(handover_timeout=10.0, generation=1))
    world.wait(5)
    world.settled(target(handover_timeout=10.0, generation=1), local())
    assert told(world.wait(4.9)) == []
    assert "cut prod/db" in told(world.wait(0.2))


def test_removal_shortens_a_long_handover_to_the_drain_timeout(world: World) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    world.settled(target(generation=1), local())
    world.wait(5)
    world.settled(target(generation=1))
    assert world.wake_at() == world.now().mono + 30
    assert "cut prod/db" in told(world.wait(30))


def test_a_plan_that_drains_also_wakes_for_the_end_of_it(world: World) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    assert make_plan(desired(target()), world.observe(), world.now()).wake_at == world.now().mono + 30


def test_clients_removed_and_put_back_regain_the_handover_deadline(world: World) -> None:
    world.settled(target(), local())
    world.arrive("prod/db")
    world.settled(target(generation=1), local())
    world.settled(target(generation=1))
    world.settled(target(generation=1), local())
    (flow,) = world.observe().flows
    assert flow.draining is not None
    assert flow.draining.cause is DrainCause.LINK
    assert flow.draining.deadline == world.now().mono + 86_400


def test_an_expiry_follows_the_wall_clock(world: World) -> None:
    """It is looked at once a minute at least: the wall clock can be set while the monotonic one just goes on."""
    world.settled(target(), local(expires_at=world.now().wall + 7200))
    assert world.wake_at() == world.now().mono + 60
    assert told(world.wait(600)) == []
    world.jump(6595)
    assert world.wake_at() == pytest.approx(world.now().mono + 5)
    assert told(world.wait(4.9)) == []
    assert told(world.wait(0.2)) == ["retire 1", "close 127.0.0.1:5432"]


def test_an_expired_tunnel_comes_back_if_the_clock_was_wrong(world: World) -> None:
    world.settled(target(), local(expires_at=world.now().wall + 10))
    world.wait(11)
    world.all_well()
    assert world.sockets() == []
    world.jump(-3600)
    assert told(world.all_well()) == ["dial prod", "open 127.0.0.1:5432 for prod/db"]


# --- an edit touches only what it names ---


def test_an_edit_elsewhere_does_nothing_here(world: World) -> None:
    here = (target("a"), local("a/x", 1), remote("a/y", 2))
    world.settled(*here, target("b"), local("b/z", 3))
    world.arrive("a/x")
    steps = told(world.settled(*here, target("b", user="other"), local("b/z", 3, to="elsewhere"), remote("b/w", 4)))
    assert not [step for step in steps if " a" in step or "a/" in step]
    assert [flow.draining for flow in world.observe().flows] == [None]


def test_a_target_that_fails_does_not_influence_others(world: World) -> None:
    world.edit(target("a"), target("b"), local("a/x", 1), remote("a/y", 2), local("b/z", 3))
    a = next(link.id for link in world.links() if link.target == "a")
    world.finish(a, REFUSED)
    world.all_well()
    assert [link.target for link in world.links(LinkPhase.READY)] == ["b"]
    assert {socket.owner.id for socket in world.sockets()} == {"a/x", "b/z"}
    assert told(world.wait(0.2)) == ["dial a"]


def test_a_taken_port_does_not_influence_others(world: World) -> None:
    world.busy.add(local("prod/a", 1).listen)
    world.settled(target(), local("prod/a", 1), local("prod/b", 2))
    assert [socket.owner.id for socket in world.sockets()] == ["prod/b"]
    assert told(world.wait(1.01)) == ["open 127.0.0.1:1 for prod/a"]


def test_a_port_that_cannot_be_chosen_does_not_hold_up_another_choice(world: World) -> None:
    world.edit(target(), local("prod/a", (15000, 15001)))
    world.finish(world.socket().key, Failure(Reason.LOCAL_PORT_IN_USE, "taken"))
    steps = told(world.edit(target(), local("prod/a", (15000, 15001)), local("prod/b", (15000, 15001))))
    assert steps == ["open 127.0.0.1:15000-15001 for prod/b"]
