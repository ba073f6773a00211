"""Decides when a failing health probe may restart its target.

Owns the memory for this decision. A target is restarted at most once per `INTERVAL`, and never while its clients
transfer data: then the link works and the destination is at fault. The meters do not count the bytes of probes.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.core.spec import TunnelSpec
from reconciler.ssh.relay.relay import Meter

INTERVAL = 300.0  # seconds between two restarts of one target


class ProbeRestartPolicy:
    """The last restart of each target and the traffic at the last failed probe. `now` is monotonic."""

    def __init__(self) -> None:
        self._restarted: dict[str, float] = {}  # by target: the time of its last restart
        # By tunnel with a failing probe: bytes of all clients of its target at that time.
        self._transferred: dict[str, int] = {}

    def is_due(self, tunnel: TunnelSpec, meters: Mapping[str, Meter], now: float) -> bool:
        """Return True if this failed probe restarts the target. The restart counts as done."""
        transferred = sum(
            meter.sent + meter.received for name, meter in meters.items() if name.startswith(f"{tunnel.target}/")
        )
        before, self._transferred[tunnel.id] = self._transferred.get(tunnel.id), transferred
        if transferred != before or now - self._restarted.get(tunnel.target, -INTERVAL) < INTERVAL:
            return False
        self._restarted[tunnel.target] = now
        return True
