"""A channel of a jump host's connection that carries the next SSH connection (asyncssh calls it a tunnel).

It has a large window, and cancelling the connect leaves no channel behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

# Received data goes to the inner connection at once and never waits in this channel, so a large window costs no memory.
# A small one would limit the inner connection to window / round trip, whatever its own channels allow.
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
