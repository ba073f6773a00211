"""Decides when a failing health probe may restart its target.

Owns the memory for this decision. A target is restarted at most once per `INTERVAL`, and never while its clients
transfer data: then the link works and the destination is at fault. The bytes of probes are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.tunnel_clients import TunnelClients

INTERVAL = 300.0  # seconds between two restarts of one target


class ProbeRestartPolicy:
    """The last restart of each target and the traffic at the last failed probe. `now` is monotonic."""

    def __init__(self) -> None:
        self._restarted: dict[str, float] = {}  # by target: the time of its last restart
        # By tunnel with a failing probe: bytes of all clients of its target at that time.
        self._transferred: dict[str, int] = {}

    def is_due(self, tunnel: TunnelSpec, clients: Mapping[str, TunnelClients], now: float) -> bool:
        """Return True if this failed probe restarts the target. The restart counts as done."""
        transferred = sum(
            one.sent + one.received for name, one in clients.items() if name.startswith(f"{tunnel.target}/")
        )
        before, self._transferred[tunnel.id] = self._transferred.get(tunnel.id), transferred
        if transferred != before or now - self._restarted.get(tunnel.target, -INTERVAL) < INTERVAL:
            return False
        self._restarted[tunnel.target] = now
        return True
