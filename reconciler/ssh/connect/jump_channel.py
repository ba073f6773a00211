"""The way through a jump host: a channel of its connection that carries the next SSH connection.

asyncssh calls this a tunnel. Ours has a large window, and does not leave a channel behind when it is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

# What comes in is handed to the inner connection at once and never waits in this channel, so a large window costs no
# memory; a small one would limit the inner connection to window / round trip, whatever its own channels allow.
_WINDOW = 64 << 20

_Opened = tuple[asyncssh.SSHTCPChannel[bytes], asyncssh.SSHTCPSession[bytes]]


class JumpChannel:
    """Opens a channel for one inner connection. See `_TunnelConnectorProtocol` in asyncssh."""

    def __init__(self, below: asyncssh.SSHClientConnection) -> None:
        self._below = below
        self.logger = below.logger

    async def create_connection(
        self, session_factory: Callable[[], asyncssh.SSHTCPSession[bytes]], remote_host: str, remote_port: int
    ) -> _Opened:
        """Cancelling an open under way would leak the channel on both sides: it goes on, and is closed once open."""
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
