"""Ports that are chosen when a socket is bound: remembered, so that they stay the same, and told in a file.

In: each bound socket's owner and address. Out: the port that a tunnel had last, and its `portFile`.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

from reconciler.core.addresses import is_choice
from reconciler.core.spec import Listen, LocalUnix, RemoteUnix, TunnelSpec

log = logging.getLogger(__name__)

_READABLE = 0o644  # it is there to be read, and says no more than the port itself does
_A_PORT = re.compile(rb"\d{0,5}\n?")  # also an empty file, as mktemp makes
_LONGEST = 8  # bytes, and so one more than a port has


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _holds_more(path):
            log.warning(
                "%s: %s holds something else than a port, and is left alone: name another file", tunnel.id, path
            )
            return
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{port}\n")
                os.fchmod(file.fileno(), _READABLE)
            Path(beside).replace(path)  # a reader sees the old number or the new one, never half of it
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("%s: cannot write its portFile %s: %s", tunnel.id, path, error.strerror)


def _holds_more(path: Path) -> bool:
    """Whether there is a file that was not written here: a wrong path must not cost anybody their file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        return _A_PORT.fullmatch(file.read(_LONGEST)) is None
