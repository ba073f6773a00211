"""The descriptor budget: its limits, and the share of each tunnel."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.descriptor_budget import AWAY, Budget, ClientPlace, Place

OWNERS = range(6)
Steps = list[tuple[str, int, int]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["client", "client", "client", "listener", "link", "leave", "move", "open", "close"]),
        st.integers(0, 5),
        st.integers(1, 20),
    ),
    max_size=200,
)


def give_back(places: Sequence[Place], times: int) -> None:
    for place in places[:times]:
        place.give_back()
        place.give_back()  # the second time does nothing


class World:
    """A budget, and what was taken from it."""

    def __init__(self, limit: int, open_before: int) -> None:
        self.budget = Budget(limit, open_before)
        self.clients: dict[int, list[ClientPlace]] = {owner: [] for owner in OWNERS}
        self.others: list[Place] = []

    def step(self, what: str, owner: int, times: int) -> None:
        budget = self.budget
        match what:
            case "client":
                for _ in range(times):
                    if (place := budget.take_client(owner, f"t{owner}", f"{owner % 3}")) is not None:
                        self.clients[owner].append(place)
            case "listener" | "link":
                take = budget.take_listener if what == "listener" else budget.take_link
                if (other := take(1 + times % 3)) is not None:
                    self.others.append(other)
            case "leave":
                give_back(self.clients[owner], times)
                del self.clients[owner][:times]
                give_back(self.others, times)
                del self.others[:times]
            case "move":
                for client in self.clients[owner][:times]:
                    client.move_to(f"{times % 3}")
            case "open":
                budget.add_owner(owner)
            case _:
                budget.remove_owner(owner)

    @property
    def taken(self) -> int:
        return self.budget.listeners + self.budget.links + self.budget.clients


@given(st.integers(16, 4096), st.integers(0, 40), STEPS)
def test_no_more_is_taken_than_usable(limit: int, open_before: int, steps: Steps) -> None:
    world = World(limit, open_before)
    for step in steps:
        world.step(*step)
        budget = world.budget
        assert 0 <= world.taken <= budget.usable
        assert budget.usable + budget.reserve + open_before <= max(limit, open_before)
        assert budget.clients == sum(map(len, world.clients.values()))
        assert [budget.clients_of(owner) for owner in OWNERS] == [len(places) for places in world.clients.values()]
        assert budget.listeners <= budget.listeners_max
        assert budget.links <= budget.links_max
    for places in world.clients.values():
        give_back(places, len(places))
    give_back(world.others, len(world.others))
    assert world.taken == 0
    assert not world.budget._groups


@given(st.integers(16, 4096), STEPS)
def test_a_tunnel_within_its_share_is_never_refused_because_of_others(limit: int, steps: Steps) -> None:
    world = World(limit, 0)
    for owner in OWNERS:
        world.budget.add_owner(owner)
    for step in steps:
        if step[0] in ("open", "close"):
            continue
        world.step(*step)
        assert world.budget.free >= 0, "what is free covers the shares that are not used"
    for owner in OWNERS:
        while world.budget.clients_of(owner) < world.budget.share:
            assert world.budget.take_client(owner, f"t{owner}", f"{owner % 3}") is not None


@given(st.integers(256, 4096), st.integers(2, 50))
def test_one_greedy_tunnel_leaves_a_quarter_to_the_others(limit: int, tunnels: int) -> None:
    budget = Budget(limit)
    for owner in range(tunnels):
        budget.add_owner(owner)
    while budget.take_client("greedy", "greedy", "x") is not None:
        pass
    assert budget.clients_of("greedy") <= budget.usable * 3 // 4 + 1
    for owner, target in ((0, "x"), (1, "y")):  # of the same target, and of another one
        count = 0
        while budget.take_client(owner, "modest", target) is not None:
            count += 1
        assert count >= budget.usable // 32


@given(st.integers(256, 4096), st.integers(1, 50))
def test_all_tunnels_of_one_target_leave_an_eighth_to_the_others(limit: int, tunnels: int) -> None:
    budget = Budget(limit)
    for owner in range(tunnels + 1):
        budget.add_owner(owner)
    for owner in range(1, tunnels + 1):
        while budget.take_client(owner, f"dead/{owner}", "dead") is not None:
            pass
    count = 0
    while budget.take_client(0, "well/t", "well") is not None:
        count += 1
    assert count >= budget.usable // 32


@given(st.integers(256, 4096), STEPS)
def test_clients_leave_descriptors_for_new_listeners_and_links(limit: int, steps: Steps) -> None:
    world = World(limit, 0)
    for owner in OWNERS:
        world.budget.add_owner(owner)
    for step in steps:
        if step[0] in ("client", "leave"):
            world.step(*step)
    for take in (world.budget.take_listener, world.budget.take_link):
        for _ in range(world.budget.usable // 8):
            assert take(1) is not None


def test_a_closed_listener_gives_its_share_to_the_others() -> None:
    budget = Budget(1024)
    budget.add_owner("a")
    alone = budget.share
    budget.add_owner("b")
    assert budget.share == alone // 2
    budget.remove_owner("b")
    assert budget.share == alone


@pytest.mark.parametrize("limit", [0, 3, 16, 64, 256, 1024, 4096, 1 << 20])
def test_every_limit_is_divided(limit: int) -> None:
    budget = Budget(limit, open_before=10)
    assert budget.reserve + budget.usable == max(0, limit - 10)
    assert 1 <= budget.endpoint_connections <= 128
    if limit >= 64:
        assert budget.take_listener(1) is not None
        assert budget.take_link(1) is not None
        assert budget.take_client("a", "a", "a") is not None


def test_messages_name_the_largest_user() -> None:
    budget = Budget(256)
    budget.add_owner("a")
    while budget.take_client("a", "prod/dead", "prod") is not None:
        pass
    used = budget.clients_of("a")
    assert budget.no_client().message == (
        f"no descriptor left for another client ({used} of 256 descriptors are in use by clients of prod/dead): "
        "raise the limit of open files (ulimit -n, LimitNOFILE=) or set `maxConnections`"
    )
    while budget.take_listener(1) is not None:
        pass
    assert "listener" in budget.no_listener().message
    while budget.take_link(1) is not None:
        pass
    assert "SSH connection" in budget.no_link().message


def test_messages_name_a_target_if_no_tunnel_alone_uses_the_most() -> None:
    budget = Budget(1024)
    places = [budget.take_client(owner, f"dead/{owner}", "dead") for owner in range(20) for _ in range(20)]
    count = sum(place is not None for place in places)
    assert f" ({count} of 1024 descriptors are in use by clients of target dead): " in budget.no_client().message


def test_clients_of_unconnected_targets_leave_an_eighth_to_others() -> None:
    budget = Budget(1024)
    for owner in range(101):
        budget.add_owner(owner)
    waiting = [budget.take_client(owner, f"dead{owner}/t", AWAY) for _ in range(13) for owner in range(1, 101)]
    places = [place for place in waiting if place is not None]
    assert f" ({len(places)} of 1024 descriptors are in use by clients of targets that are not connected): " in (
        budget.no_client().message
    )
    count = 0
    while budget.take_client(0, "well/t", "well") is not None:
        count += 1
    assert count > budget.usable // 32
    assert budget.take_client(1, "dead1/t", AWAY) is None
    for place in places:
        place.move_to("dead1")  # there is a connection now
    assert budget.take_client(2, "dead2/t", AWAY) is not None
