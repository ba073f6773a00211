"""Decides when a failing health probe may restart its target.

Input: the records of targets and tunnels, which keep the memory for this decision. A target is restarted at most once
per `INTERVAL`, and never while its clients transfer data: then the link works and the destination is at fault. The
bytes of probes are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.tunnel_clients import TunnelClients
from reconciler.ssh.records import Records

INTERVAL = 300.0  # seconds between two restarts of one target


def is_restart_due(tunnel: TunnelSpec, records: Records, clients: Mapping[str, TunnelClients], now: float) -> bool:
    """Return True if this failed probe restarts the target. The restart counts as done. `now` is monotonic."""
    target, record = records.target(tunnel.target), records.tunnel(tunnel.id)
    transferred = sum(one.sent + one.received for name, one in clients.items() if name.startswith(f"{tunnel.target}/"))
    before, record.transferred = record.transferred, transferred
    if transferred != before or now - target.restarted_at < INTERVAL:
        return False
    target.restarted_at = now
    return True
