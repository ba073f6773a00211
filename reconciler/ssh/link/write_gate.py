"""The write gate of a link: while its socket is full, its relays stop reading their clients.

Without it asyncssh would buffer without a limit, and a small packet of another client would wait behind the buffer.
Input: what the transport and the packet guard report, and the relays that have stopped. Output: relays are released a
few at a time when there is room, and flushed after each read of the link.
"""

from __future__ import annotations

import asyncio
from itertools import islice

import asyncssh

from reconciler.ssh.internals import write_pause
from reconciler.ssh.internals.packet_guard import Guard
from reconciler.ssh.relay.relay import Hold, Relay

RELEASED_AT_ONCE = 4


class WriteGate:
    """The gate of one connection, as its relays see it. It installs itself in the connection and the guard."""

    def __init__(self, connection: asyncssh.SSHClientConnection, guard: Guard) -> None:
        self._guard = guard
        self._inbound = guard.inbound
        self._loop = asyncio.get_running_loop()
        self._socket_full = False
        self._waiting: dict[Relay, None] = {}  # an ordered set
        self._unflushed: list[Relay] = []
        self._inbound.worked = self._flush
        guard.exchanged = self._release_more
        write_pause.observe(connection, self._pause, self._resume)

    @property
    def full(self) -> bool:
        """True if data sent now would only be buffered: the socket is full, or a key exchange is running."""
        return self._socket_full or self._guard.exchanging

    def wait(self, relay: Relay) -> None:
        """Queue a relay that has stopped reading, until the socket has room."""
        self._waiting[relay] = None

    def leave(self, relay: Relay) -> None:
        self._waiting.pop(relay, None)

    def flushes_later(self, relay: Relay) -> bool:
        """Return True during parsing, when more bytes may follow, and then call the relay's `flush` after parsing."""
        if self._inbound.working:
            self._unflushed.append(relay)
        return self._inbound.working

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for relay in unflushed:
            relay.flush()

    def _pause(self) -> None:
        self._socket_full = True

    def _resume(self) -> None:
        self._socket_full = False
        self._release_more()

    def _release_more(self) -> None:
        if self.full:
            return
        # A few at a time, first come first served. They read in the next iteration of the loop; if that fills the
        # socket again, the others keep their places. Releasing all at once would queue one buffer of each.
        for relay in tuple(islice(self._waiting, RELEASED_AT_ONCE)):
            del self._waiting[relay]
            relay.release_client(Hold.GATE)
        if self._waiting:
            self._loop.call_soon(self._release_more)
