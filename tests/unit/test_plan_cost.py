"""A pass without changes compares objects by identity; tests/bench/plan_noop.py measures the effect."""

from typing import Any

import pytest

from reconciler.core.plan import make_plan
from reconciler.core.spec import FarTcp, LocalTcp, Policy, TunnelSpec
from unit.build import World, local, target


def test_a_pass_over_identical_objects_compares_none_of_them_deeply(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.settled(target(connections=2), *(local(f"prod/{number}", number + 1) for number in range(50)))
    compared: list[type] = []

    def count(cls: type) -> None:
        plain: Any = cls.__eq__

        def counted(self: Any, other: object) -> Any:
            compared.append(cls)
            return plain(self, other)

        monkeypatch.setattr(cls, "__eq__", counted)

    for number in range(50):
        world.arrive(f"prod/{number}")
    observed = world.observe()
    for cls in (TunnelSpec, LocalTcp, FarTcp, Policy):
        count(cls)
    assert make_plan(world.asked, observed, world.now()).actions == ()
    assert compared == []


def test_a_pass_over_equal_objects_hashes_no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested dataclasses hash slowly, so a pass without changes uses none as a key."""
    world = World()
    world.settled(target(), *(local(f"prod/{number}", number + 1) for number in range(50)))
    for number in range(50):
        world.arrive(f"prod/{number}")
    observed = world.observe()
    monkeypatch.setattr(TunnelSpec, "__hash__", None)
    monkeypatch.setattr(LocalTcp, "__hash__", None)
    monkeypatch.setattr(FarTcp, "__hash__", None)
    assert make_plan(world.asked, observed, world.now()).actions == ()
