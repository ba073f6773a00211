"""What carries an SSH connection instead of a TCP socket: a channel of a jump host, or a proxy command.

asyncssh calls it a tunnel, and documents only that another connection can be one. That has three defects, which
`JumpChannel` avoids. The channel has the default window. It stays open after a cancelled connect, and after the end of
the inner connection. And asyncssh ends the jump host's connection if a packet arrives for a channel that is closed,
such as one to another host of the same dial.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

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
    Seam(asyncssh.SSHClientConnection, "_channels"),
    Seam(asyncssh.SSHClientConnection, "_next_recv_chan"),
    Seam(asyncssh.SSHTCPChannel, "process_packet", "self pkttype pktid packet"),
    Seam(asyncssh.SSHTCPChannel, "log_received_packet", "self pkttype pktid packet note"),
)
_LATE_MAX = 4096  # packets that are ignored on one connection


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
        ours = cast("Any", below)  # asyncssh has no public access to its channels
        if not isinstance(ours._channels, _Channels):  # noqa: SLF001 - as above
            ours._channels = _Channels(ours)  # noqa: SLF001 - as above

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


class _Channels(dict[int, Any]):
    """asyncssh's channels by their number. Late packets for closed and closing ones are ignored, up to a limit."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection._channels)  # noqa: SLF001 - asyncssh has no public access to its channels
        self._connection = connection
        self._late = 0

    def __getitem__(self, number: int) -> _Tolerant:
        channel = self.get(number)
        if channel is None and number >= self._connection._next_recv_chan:  # noqa: SLF001 - as above
            raise KeyError(number)
        return _Tolerant(channel, self.count_late)

    def count_late(self) -> None:
        """Count a late packet. Raises ProtocolError for a flood of them."""
        self._late += 1
        if self._late > _LATE_MAX:
            raise asyncssh.ProtocolError(f"more than {_LATE_MAX} packets for closed channels")


class _Tolerant:
    """The packet handler of a channel, None for one that is closed."""

    def __init__(self, channel: Any, count_late: Callable[[], None]) -> None:
        self._channel = channel
        self._count_late = count_late

    def process_packet(self, *packet: Any) -> Any:
        if self._channel is not None:
            try:
                return self._channel.process_packet(*packet)
            except asyncssh.ProtocolError:
                if not self._channel.is_closing():
                    raise
        self._count_late()
        return True

    def log_received_packet(self, *packet: Any) -> None:
        if self._channel is not None:
            self._channel.log_received_packet(*packet)
