"""When a failing probe may replace its target's link."""

from __future__ import annotations

from reconciler.runtime.probe_restart_policy import INTERVAL, ProbeRestartPolicy
from reconciler.ssh.clients.tunnel_clients import TunnelClients
from unit.build import local

SICK = local("prod/sick")


def test_a_restart_is_neither_immediate_nor_soon_repeated() -> None:
    replacements, meters = (
        ProbeRestartPolicy(),
        {"prod/sick": TunnelClients(sent=7), "prod/other": TunnelClients(received=5)},
    )
    assert not replacements.is_due(SICK, meters, 0.0), "whether anything moves is seen at the second failure"
    assert replacements.is_due(SICK, meters, 1.0)
    assert not replacements.is_due(SICK, meters, INTERVAL)
    assert replacements.is_due(SICK, meters, 1.0 + INTERVAL)


def test_no_restart_while_a_client_of_the_target_moves_data() -> None:
    for mover in ("prod/sick", "prod/other"):
        replacements, meters = ProbeRestartPolicy(), {"prod/sick": TunnelClients(), "prod/other": TunnelClients()}
        for now in range(5):
            meters[mover].received += 1
            assert not replacements.is_due(SICK, meters, now), mover
        assert replacements.is_due(SICK, meters, 6.0)


def test_traffic_of_other_targets_does_not_prevent_a_restart() -> None:
    replacements, elsewhere = ProbeRestartPolicy(), TunnelClients()
    assert not replacements.is_due(SICK, {"product/x": elsewhere}, 0.0)
    elsewhere.sent += 1
    assert replacements.is_due(SICK, {"product/x": elsewhere}, 1.0)
