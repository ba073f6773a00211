"""When a failing probe may replace its target's link."""

from __future__ import annotations

from reconciler.runtime.probe_restart_policy import INTERVAL, is_restart_due
from reconciler.ssh.records import Records
from unit.build import local

SICK = local("prod/sick")


def test_a_restart_is_neither_immediate_nor_soon_repeated() -> None:
    records = Records()
    records.tunnel("prod/sick").clients.sent = 7
    records.tunnel("prod/other").clients.received = 5
    assert not is_restart_due(SICK, records, 0.0), "whether anything moves is seen at the second failure"
    assert is_restart_due(SICK, records, 1.0)
    assert not is_restart_due(SICK, records, INTERVAL)
    assert is_restart_due(SICK, records, 1.0 + INTERVAL)


def test_no_restart_while_a_client_of_the_target_moves_data() -> None:
    for mover in ("prod/sick", "prod/other"):
        records = Records()
        for now in range(5):
            records.tunnel(mover).clients.received += 1
            assert not is_restart_due(SICK, records, now), mover
        assert is_restart_due(SICK, records, 6.0)


def test_traffic_of_other_targets_does_not_prevent_a_restart() -> None:
    records = Records()
    assert not is_restart_due(SICK, records, 0.0)
    records.tunnel("product/x").clients.sent += 1
    assert is_restart_due(SICK, records, 1.0)
