"""Holds clients until their target has a usable link.

Notes in the records how many clients each tunnel and target holds, and when a target's last client was present. Input:
a client without a channel. Output: a usable link, or `ConnectionRejected`. Calls `changed` when the first client of a
target begins to wait: that shortens the backoff and starts an on-demand target.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator

from reconciler.core.observed import ClientResult
from reconciler.core.socks5 import Reply
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.connection import ClientConnection, ConnectionRejected
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import Records
from reconciler.ssh.relay.client_socket import ClientSocket

HELD_CHECK = 1.0  # seconds between two checks whether a held client is still connected


class HoldQueue:
    """Holds clients. `select_link` returns a usable link of a target or None; `wait` returns when there may be one."""

    def __init__(
        self,
        select_link: Callable[[str], Link | None],
        wait: Callable[[str], Coroutine[None, None, None]],
        changed: Callable[[], None],
        records: Records,
    ) -> None:
        self._select_link = select_link
        self._wait = wait
        self._changed = changed
        self._records = records
        self._loop = asyncio.get_running_loop()

    def mark_used(self, target: str) -> None:
        """Note that a client of the target was present until now."""
        self._records.target(target).last_used = self._loop.time()

    def link_for(self, connection: ClientConnection) -> Link | None:
        """Return a usable link of the target that the client's tunnel has now, None if there is none."""
        link = self._select_link(connection.tunnel.target)
        if link is not None and connection.socket.place is not None:
            connection.socket.place.move_to(connection.tunnel.target)
        return link

    async def hold(self, connection: ClientConnection, deadline: float) -> Link:
        """Return a usable link as soon as there is one, of the target that the client's tunnel then has.

        Raises ConnectionRejected at `deadline` (loop time), or when the client leaves.
        """
        while (link := self.link_for(connection)) is None:
            now = self._loop.time()
            if now >= deadline:
                why = f"no SSH connection within its holdTimeout of {connection.tunnel.policy.hold_timeout:g} s"
                raise ConnectionRejected(ClientResult.HOLD_TIMEOUT, why, connection.reply(Reply.GENERAL_FAILURE))
            if _has_gone(connection.socket):
                raise ConnectionRejected(ClientResult.LEFT)
            with self._holding(connection.tunnel), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(HELD_CHECK, deadline - now)):
                    await self._wait(connection.tunnel.target)
        return link

    @contextlib.contextmanager
    def _holding(self, tunnel: TunnelSpec) -> Iterator[None]:
        clients, target = self._records.tunnel(tunnel.id).clients, self._records.target(tunnel.target)
        clients.held += 1
        target.held += 1
        if target.held == 1:
            self._changed()
        try:
            yield
        finally:
            clients.held -= 1
            target.held -= 1
            self.mark_used(target.name)


_TCP_CLOSE = 7  # tcpi_state of a connection that was reset


def _has_gone(client: ClientSocket) -> bool:
    """Return True if the client has reset its connection. Nothing is read from it, so only TCP_INFO shows that."""
    sock = client.sock
    if client.lost:
        return True
    if sock is None or sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
    except OSError:
        return True
