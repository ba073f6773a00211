"""Drives the channels of one link: packets from and to the connection, the time, the delay of the path.

Input: packets of the packet path, and channels that have something to send. Output: calls of the mux, packets. What
arrived in one read is delivered to the clients when all of its packets are handled, with one system call for each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import asyncssh

from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import Forward, Packet
from reconciler.ssh.channels.mux import LinkViolationError, Mux, Offer
from reconciler.ssh.channels.send_side import PACKET_MAX
from reconciler.ssh.channels.window import WindowBudget
from reconciler.ssh.internals.asyncssh_state import FIRST_CHANNEL
from reconciler.ssh.internals.packet_guard import Guard
from reconciler.ssh.internals.packet_path import PacketPath
from reconciler.ssh.relay.relay import LINK_LOST, Relay

_FIRST_BYTE = FIRST_CHANNEL >> 24  # the least first byte of the number of an own channel
_OPEN, _DATA = Packet.OPEN.value, Packet.DATA.value
_LEAST = 5  # bytes: the message number and the channel's
GO_ON_PAUSE = 1.0  # seconds between two calls of `Mux.go_on`
OPEN_COST = 0.0005  # seconds of later work for a channel that the server opens: a connection from here
_FORWARDED = b"forwarded-"  # types of channels that a server opens for its listeners: these are ours

log = logging.getLogger(__name__)


class ChannelDriver:
    """The driver of one connection. Installs itself in it.

    heard_at    when bytes arrived last (loop time)
    when_heard  called once when bytes arrive, before `heard_at` changes, with the time
    undelivered relays that have received data in the present read
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, guard: Guard, offer: Offer) -> None:
        """`offer`: returns the handler of a channel that the server asks for, or a refusal."""
        self._connection = connection
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self.when_heard: Callable[[float], None] | None = None
        self.undelivered: list[Relay] = []
        self._goes_on_at = 0.0
        self._is_scheduled = False
        self._budget = WindowBudget()
        self._mux = Mux(self._wake, offer, self._budget, first=FIRST_CHANNEL, send_max=_send_max(connection))
        self.receive_data = self._mux.receive_data
        self._path = PacketPath(connection, self)
        self._charge = guard.inbound.charge if self._path.is_plain else self._path.charge
        if not self._path.is_plain:
            guard.inbound.lift(self._path.reader)

    def __len__(self) -> int:
        """Return the number of channels, also of those that only the server has not closed."""
        return len(self._mux)

    @property
    def reserved(self) -> int:
        """Bytes of the receive windows of all channels."""
        return self._budget.reserved

    def open(self, what: Forward, handler: ChannelHandler, delay: float) -> Channel:
        """Ask the server for a channel. `delay`: the least round trip of the path, in seconds. Raises LimitError."""
        self._budget.delay = delay
        return self._mux.open(what, handler)

    def end(self) -> None:
        """End all channels: the connection has ended."""
        try:
            self._mux.end(LINK_LOST)
        except Exception:
            log.exception("internal error while a link ended: please report it")

    # --- sending -----------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send what the channels have to send, as far as the connection takes it."""
        try:
            if self._path.send(self._mux.outbox):
                self._schedule()
        except Exception:
            # A bug. Without the end of the connection, all its channels would wait for each other without end.
            log.exception("internal error while a link sent: please report it")
            self._connection.abort()

    def ready(self, channel: Channel) -> None:
        """Send what this channel, and perhaps others, have to send, without another turn of the loop."""
        self._mux.outbox.pending = True  # so that it does not call `_wake`
        channel.ready()
        self.send()

    def _wake(self) -> None:
        if not self._path.in_batch:  # `batch_ended` sends
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._send_scheduled)

    def _send_scheduled(self) -> None:
        self._is_scheduled = False
        self.send()

    # --- calls of the packet path ------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        if self.when_heard is not None:
            call, self.when_heard = self.when_heard, None
            call(now)
        self.heard_at = self._mux.now = now
        if now >= self._goes_on_at:
            self._goes_on_at = now + GO_ON_PAUSE
            self._mux.go_on()

    def received(self, kind: int, payload: memoryview) -> bool:
        if kind == _OPEN:
            if bytes(payload[5 : 5 + len(_FORWARDED)]) != _FORWARDED:
                return False
            self._charge(OPEN_COST)
        elif len(payload) < _LEAST or payload[1] < _FIRST_BYTE:
            return False
        if self._guard.server_exchanges_keys:
            raise asyncssh.ProtocolError("a packet of a channel within a key exchange")
        try:
            if kind != _DATA or not self.receive_data(payload):
                self._mux.receive(payload)
        except LinkViolationError as error:
            self._deliver()
            raise asyncssh.ProtocolError(str(error)) from None
        except BaseException:
            self._deliver()
            raise
        return True

    def batch_ended(self) -> None:
        if self.undelivered:
            self._deliver()
        if self._mux.outbox.pending:
            self.send()

    def writable(self) -> None:
        self.send()

    def _deliver(self) -> None:
        relays, self.undelivered = self.undelivered, []
        for relay in relays:
            relay.deliver()


def _send_max(connection: asyncssh.SSHClientConnection) -> int:
    """Return the most bytes of data in one packet. Dropbear with compression takes one byte less than it says."""
    is_dropbear = "dropbear" in str(connection.get_extra_info("server_version", "")).lower()
    is_compressed = connection.get_extra_info("send_compression", "none") != "none"
    return PACKET_MAX - 1 if is_dropbear and is_compressed else PACKET_MAX
