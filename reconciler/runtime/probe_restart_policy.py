"""Decides when a failing health probe may restart its target.

Input: the records of targets and tunnels, which store what this decision needs. A target is restarted at most once
per `INTERVAL`, and never while its clients transfer data: then the link works and the destination is at fault. The
bytes of probes are not counted.
"""

from __future__ import annotations

from reconciler.core.spec import TunnelSpec
from reconciler.core.subject import Subject
from reconciler.ssh.records import Records

INTERVAL = 300.0  # seconds between two restarts of one target


def is_restart_due(tunnel: TunnelSpec, records: Records, now: float) -> bool:
    """Return True if this failed probe restarts the target, and record the restart. `now` is monotonic."""
    target, record = records.target(tunnel.target), records.tunnel(tunnel.id)
    of_target = [one.clients for one in records.tunnels() if Subject("tunnel", one.id).target == tunnel.target]
    transferred = sum(one.sent + one.received for one in of_target)
    before, record.transferred = record.transferred, transferred
    if transferred != before or now - target.restarted_at < INTERVAL:
        return False
    target.restarted_at = now
    return True
