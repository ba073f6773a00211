"""The exceptions of the Python API. All derive from `TunnelsError`, and also from the built-in one that fits.

`ConfigError` and `NoSuchTunnelError` are part of them, and are defined where they are raised.
"""

from __future__ import annotations

from reconciler.api.results import TunnelState
from reconciler.core.text.errors import TunnelsError


class TunnelsNotUpError(TunnelsError):
    """Not all tunnels came up in time, or each missing tunnel needs action, so that no retry helps.

    The message has a line for each missing tunnel, with its phase and message.
    """

    def __init__(self, what: str, tunnels: tuple[TunnelState, ...] = ()) -> None:
        super().__init__(what, tunnels)
        self.what = what
        self.tunnels = tunnels
        """The missing tunnels."""

    def __str__(self) -> str:
        return "\n".join([f"{self.what}:", *map(str, self.tunnels)]) if self.tunnels else self.what


class BlockEndedError(TunnelsError, RuntimeError):
    """The `open_tunnels` block has ended, before the call or during it."""

    def __init__(self, message: str = "the `open_tunnels` block has ended: call this inside it") -> None:
        super().__init__(message)


class WrongContextError(TunnelsError, RuntimeError):
    """The call comes from an event loop or a process other than that of the block."""


class NoPortError(TunnelsError, ValueError):
    """The tunnel has no port: it listens on a unix socket, or its port is not assigned yet."""


class ReadTimeoutError(TunnelsError, TimeoutError):
    """The configuration could not be read in time. Nothing was opened or changed."""
