"""Which tunnels a wait is for, and when it gives up."""

from __future__ import annotations

from reconciler.core.observed import Phase
from reconciler.core.text.progress import Progress

DB, WEB, OFF, SPARE = "prod/db", "prod/web", "prod/off", "prod/spare"
TUNNELS = (
    (DB, Phase.UP, False),
    (WEB, Phase.DOWN, True),
    (OFF, Phase.OFF, False),
    (SPARE, Phase.STANDBY, False),
    ("other/x", Phase.CONNECTING, False),
)


def test_tunnels_that_are_off_or_in_standby_are_not_awaited() -> None:
    progress = Progress.of(TUNNELS)
    assert progress == Progress(1, (WEB, "other/x"), is_hopeless=False)
    assert str(progress) == "1 of 3 up, waiting for prod/web, other/x"


def test_only_the_full_id_awaits_a_tunnel_that_is_off() -> None:
    assert Progress.of(TUNNELS, [OFF]).missing == (OFF,)
    assert Progress.of(TUNNELS, ["prod/*", "other"]).missing == (WEB, "other/x")


def test_a_wait_is_hopeless_if_each_missing_tunnel_needs_action() -> None:
    assert Progress.of(TUNNELS, ["prod"]).is_hopeless
    assert not Progress.of(TUNNELS, [DB]).is_hopeless, "nothing is missing"
    assert not Progress.of(()).is_hopeless


def test_every_phase_is_awaited_but_three() -> None:
    awaited = {phase for phase in Phase if Progress.of([("a/b", phase, False)]).missing}
    assert awaited == set(Phase) - {Phase.UP, Phase.OFF, Phase.STANDBY}
