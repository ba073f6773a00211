"""When a failing probe may have its target's connection replaced.

Owns the memory for it: not too often, and never while clients move data on the connection, because then it is the
destination that is unwell and not the way there. (What a probe itself moves is not in the meters.)
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.core.spec import TunnelSpec
from reconciler.ssh.relay.relay import Meter

EVERY = 300.0  # seconds between two of them, for one target


class ProbeRestartPolicy:
    """See the module. `now` is monotonic."""

    def __init__(self) -> None:
        self._replaced: dict[str, float] = {}  # by target: when it last happened
        self._moved: dict[
            str, int
        ] = {}  # by tunnel with a failing probe: what all clients of its target had moved by then

    def is_due(self, tunnel: TunnelSpec, meters: Mapping[str, Meter], now: float) -> bool:
        """Whether to replace it now that the tunnel's probe has failed once more; it counts as done."""
        moved = sum(
            meter.sent + meter.received for name, meter in meters.items() if name.startswith(f"{tunnel.target}/")
        )
        before, self._moved[tunnel.id] = self._moved.get(tunnel.id), moved
        if moved != before or now - self._replaced.get(tunnel.target, -EVERY) < EVERY:
            return False
        self._replaced[tunnel.target] = now
        return True
