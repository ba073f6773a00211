"""When a failing probe may replace its target's link."""

from __future__ import annotations

from reconciler.runtime.probe_restart_policy import INTERVAL, is_restart_due
from reconciler.ssh.records import Records
from reconciler.ssh.relay.relay import Meter
from unit.build import local

SICK = local("prod/sick")


def test_a_restart_is_neither_immediate_nor_soon_repeated() -> None:
    records, meters = Records(), {"prod/sick": Meter(sent=7), "prod/other": Meter(received=5)}
    assert not is_restart_due(SICK, records, meters, 0.0), "whether anything moves is seen at the second failure"
    assert is_restart_due(SICK, records, meters, 1.0)
    assert not is_restart_due(SICK, records, meters, INTERVAL)
    assert is_restart_due(SICK, records, meters, 1.0 + INTERVAL)


def test_no_restart_while_a_client_of_the_target_moves_data() -> None:
    for mover in ("prod/sick", "prod/other"):
        records, meters = Records(), {"prod/sick": Meter(), "prod/other": Meter()}
        for now in range(5):
            meters[mover].received += 1
            assert not is_restart_due(SICK, records, meters, now), mover
        assert is_restart_due(SICK, records, meters, 6.0)


def test_traffic_of_other_targets_does_not_prevent_a_restart() -> None:
    records, elsewhere = Records(), Meter()
    assert not is_restart_due(SICK, records, {"product/x": elsewhere}, 0.0)
    elsewhere.sent += 1
    assert is_restart_due(SICK, records, {"product/x": elsewhere}, 1.0)
