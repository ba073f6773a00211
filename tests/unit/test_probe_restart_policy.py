"""When a failing probe may replace its target's link."""

from __future__ import annotations

from reconciler.runtime.probe_restart_policy import INTERVAL, is_restart_due
from reconciler.ssh.clients.tunnel_clients import TunnelClients
from reconciler.ssh.records import Records
from unit.build import local

SICK = local("prod/sick")


def test_a_restart_is_neither_immediate_nor_soon_repeated() -> None:
    records, clients = Records(), {"prod/sick": TunnelClients(sent=7), "prod/other": TunnelClients(received=5)}
    assert not is_restart_due(SICK, records, clients, 0.0), "whether anything moves is seen at the second failure"
    assert is_restart_due(SICK, records, clients, 1.0)
    assert not is_restart_due(SICK, records, clients, INTERVAL)
    assert is_restart_due(SICK, records, clients, 1.0 + INTERVAL)


def test_no_restart_while_a_client_of_the_target_moves_data() -> None:
    for mover in ("prod/sick", "prod/other"):
        records, clients = Records(), {"prod/sick": TunnelClients(), "prod/other": TunnelClients()}
        for now in range(5):
            clients[mover].received += 1
            assert not is_restart_due(SICK, records, clients, now), mover
        assert is_restart_due(SICK, records, clients, 6.0)


def test_traffic_of_other_targets_does_not_prevent_a_restart() -> None:
    records, elsewhere = Records(), TunnelClients()
    assert not is_restart_due(SICK, records, {"product/x": elsewhere}, 0.0)
    elsewhere.sent += 1
    assert is_restart_due(SICK, records, {"product/x": elsewhere}, 1.0)
