"""Ports that are chosen when a socket is bound: remembered, so that they stay the same, and told in a file.

In: each bound socket's owner and address. Out: the port that a tunnel had last, and its `portFile`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from reconciler.core.addresses import is_choice
from reconciler.core.spec import Listen, LocalUnix, RemoteUnix, TunnelSpec

log = logging.getLogger(__name__)


class ChosenPorts:
    """See the module."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}  # by tunnel id

    def last(self, tunnel: TunnelSpec) -> int:
        """The port that was chosen for it last, 0: none yet."""
        return self._last.get(tunnel.id, 0)

    def bound(self, tunnel: TunnelSpec, listen: Listen, address: str) -> None:
        """It listens there: remember a choice, and write it down if that is asked for."""
        if isinstance(listen, LocalUnix | RemoteUnix):
            return
        port = int(address.rpartition(":")[2])
        if is_choice(listen):
            self._last[tunnel.id] = port
        if tunnel.policy.port_file:
            _write(tunnel, port)

    def forget(self, live: Collection[str]) -> None:
        """Only these tunnels are asked for."""
        for tunnel in self._last.keys() - live:
            del self._last[tunnel]


def _write(tunnel: TunnelSpec, port: int) -> None:
    path = Path(tunnel.policy.port_file)
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(f"{port}\n")
        beside.replace(path)  # a reader sees the old number or the new one, never half of it
    except OSError as error:
        log.warning("%s: cannot write its portFile %s: %s", tunnel.id, path, error.strerror)
