"""Run-time state over the files: pauses, restarts, the shard, and the matching of globs."""

from __future__ import annotations

import pytest

from reconciler.core.off import DISABLED, Off, OffCause
from reconciler.core.overlay import NoSuchTunnelError, Overlay, matching
from reconciler.core.shard import Shard
from unit.build import desired, local, target

FILES = desired(
    target("prod"), target("test"), local("prod/db", 1), local("prod/web", 2), local("test/db", 3, off=DISABLED)
)


def test_an_empty_overlay_changes_nothing() -> None:
    assert Overlay().over(FILES) is FILES


def test_a_pause_survives_edits_and_ends() -> None:
    overlay = Overlay()
    overlay.pause(["prod/db", "prod/gone"], 100.0)
    overlay.pause(["test/db"], None)
    assert {t.id: t.off for t in overlay.over(FILES).tunnels.values()} == {
        "prod/db": Off(OffCause.PAUSED, 100.0),
        "prod/web": None,
        "test/db": DISABLED,
    }
    assert overlay.over_by(99.0) == []
    assert overlay.over_by(100.0) == ["prod/db", "prod/gone"]
    overlay.resume(["prod/db", "prod/gone", "test/db"])
    assert overlay.over(FILES) == FILES
    overlay.pause(["prod/web"], None)
    assert overlay.over(FILES).tunnels["prod/web"].off == Off(OffCause.PAUSED)
    assert overlay.over(FILES).tunnels["prod/db"] is FILES.tunnels["prod/db"]


def test_each_restart_is_another_access() -> None:
    overlay = Overlay()
    seen = set()
    for _ in range(3):
        seen.add(overlay.over(FILES).targets["prod"].access)
        overlay.restart("prod")
    assert len(seen) == 3
    assert overlay.over(FILES).targets["test"] == FILES.targets["test"]


def test_a_shard_has_its_targets_with_all_their_tunnels() -> None:
    many = desired(*(target(f"t{n}") for n in range(50)), *(local(f"t{n % 50}/x{n}", n + 1) for n in range(100)))
    parts = [Overlay(Shard(index, 3)).over(many) for index in range(3)]
    assert sorted(name for part in parts for name in part.targets) == sorted(many.targets)
    assert sorted(name for part in parts for name in part.tunnels) == sorted(many.tunnels)
    assert all(tunnel.target in part.targets for part in parts for tunnel in part.tunnels.values())


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        (["prod"], ["prod/db", "prod/web"]),
        (["prod/db"], ["prod/db"]),
        (["*/db"], ["prod/db", "test/db"]),
        (["test/db", "prod/db"], ["prod/db", "test/db"]),
        (["*"], ["prod/db", "prod/web", "test/db"]),
        (["PROD"], None),
        (["prod", "nothing*"], None),
    ],
)
def test_globs_match_tunnels_by_id_or_target(patterns: list[str], ids: list[str] | None) -> None:
    if ids is None:
        with pytest.raises(NoSuchTunnelError, match="known tunnels are prod/db, prod/web, test/db"):
            matching(patterns, FILES)
    else:
        assert [tunnel.id for tunnel in matching(patterns, FILES)] == ids
