"""What carries an SSH connection instead of a TCP socket: a channel of a jump host, or a proxy command.

asyncssh calls it a tunnel. It documents only that another connection can be one, with a channel of the default window
that a cancelled connect leaves behind, and that stays open when the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import asyncssh
from asyncssh import connection as asyncssh_connection

from reconciler.ssh.internals.seam import Seam

# Received data goes to the inner connection at once and never waits in this channel, so a large window costs no memory.
# A small one would limit the inner connection to window / round trip, whatever its own channels allow.
_WINDOW = 64 << 20

_Opened = tuple[asyncssh.SSHTCPChannel[bytes], asyncssh.SSHTCPSession[bytes]]

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "set_tunnel", "self tunnel"),
    Seam(
        asyncssh_connection._TunnelConnectorProtocol,  # noqa: SLF001 - the type of the argument `tunnel`
        "create_connection",
        "self session_factory remote_host remote_port",
    ),
)


class Carrier(Protocol):
    """What asyncssh calls on the carrier when the connection has ended."""

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


def close_with(connection: asyncssh.SSHClientConnection, carrier: Carrier) -> None:
    """Close the carrier when the connection ends."""
    connection.set_tunnel(carrier)


class JumpChannel:
    """Opens a channel of a jump host's connection for one inner connection: the `tunnel` of `asyncssh.connect`."""

    def __init__(self, below: asyncssh.SSHClientConnection) -> None:
        self._below = below
        self.logger = below.logger

    async def create_connection(
        self, session_factory: Callable[[], asyncssh.SSHTCPSession[bytes]], remote_host: str, remote_port: int
    ) -> _Opened:
        """Open the channel. If cancelled, the open goes on and the channel is closed then: else both sides leak it."""
        opening = asyncio.ensure_future(
            self._below.create_connection(session_factory, remote_host, remote_port, window=_WINDOW)
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise


def _close_late(opening: asyncio.Task[_Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()
