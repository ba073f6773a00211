"""The relay of one client connection: pumps and counts bytes between its socket and a channel.

Owns the byte pump for all kinds of tunnels, half-close in both orders, back-pressure both ways, and the counters.
Input: a client transport (accepted or dialled here) and, later, a channel. Output: `ended` is called once with the
reason, when both sides are closed.

The client's socket is read while its set of reasons to hold (`Hold`) is empty:
  OPENING  the channel is not open yet: bytes wait in the kernel, not here
  CHANNEL  the channel's send window is used up
  GATE     the link's own socket is full: asyncssh would buffer without bound, and a small packet of another client
           would wait behind it (docs/asyncssh.md)
  RATE     the tunnel's bandwidth limit is used up
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntFlag
from typing import Protocol

import asyncssh

from reconciler.ssh.internals.channel import abort_with_unsent, set_receive_window
from reconciler.ssh.internals.recv_buffer import merge
from reconciler.ssh.relay.client_transport import ClientTransport


class Hold(IntFlag):
    """Reasons not to read from a side."""

    NONE = 0
    OPENING = 1
    CHANNEL = 2
    GATE = 4
    RATE = 8
    CLIENT = 16  # (of the channel) the client socket's buffer is full


class Totals(Protocol):
    """The bytes of all clients of a tunnel: towards the SSH server, and from it."""

    sent: int
    received: int


class Throttle(Protocol):
    """A shared bandwidth limit. `take` returns the seconds to stop reading after `count` more bytes."""

    def take(self, count: int) -> float: ...


class Gate(Protocol):
    """A link as its relays see it: while it is full, a relay stops reading and waits to be released."""

    @property
    def full(self) -> bool: ...

    def flushes_later(self, relay: Relay) -> bool:
        """Return True if more may follow from the same read of the link: it then calls `flush` after the last."""

    def wait(self, relay: Relay) -> None: ...

    def leave(self, relay: Relay) -> None: ...


class ChannelSession(asyncssh.SSHTCPSession[bytes]):
    """The channel side of a relay. A unix channel's session has the same methods."""

    def __init__(self, relay: Relay, window: int = 0) -> None:
        """`window`: the receive window to set on the channel of a server's listener; 0: the channel has its own."""
        self._relay = relay
        self._window = window

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        merge(chan)
        if self._window:
            set_receive_window(chan, self._window)
        self._relay.opened(chan)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._relay.channel_data(data)

    def eof_received(self) -> bool:
        self._relay.channel_eof()
        return True

    def pause_writing(self) -> None:
        self._relay.hold_client(Hold.CHANNEL)

    def resume_writing(self) -> None:
        self._relay.release_client(Hold.CHANNEL)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.channel_lost(exc)


class Relay:
    """Connects a client transport with a channel. The channel arrives by `opened`, called by the session.

    send_on_open   bytes for the client when the channel opens: the end of its handshake
    """

    __slots__ = (
        "_channel_eof",
        "_channel_hold",
        "_channel_lost",
        "_client_eof",
        "_client_hold",
        "_ended",
        "_gate",
        "_moved",
        "_moved_at",
        "_rate_down",
        "_rate_up",
        "_unwritten",
        "_why",
        "channel",
        "client",
        "received",
        "send_on_open",
        "sent",
        "totals",
    )

    def __init__(
        self,
        client: ClientTransport,
        totals: Totals,
        gate: Gate,
        ended: Callable[[str], None],
    ) -> None:
        self.client = client
        self.totals = totals
        self.channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self.sent = 0
        self.received = 0
        self._moved = 0
        self._moved_at = asyncio.get_running_loop().time()
        self.send_on_open = b""
        self._unwritten: list[bytes] = []
        self._gate = gate
        self._ended: Callable[[str], None] | None = ended
        self._client_hold = Hold.OPENING
        self._channel_hold = Hold.NONE
        self._client_eof = False
        self._channel_eof = False
        self._channel_lost = False
        self._why = ""
        self._rate_up: Throttle | None = None
        self._rate_down: Throttle | None = None
        client.relay = self

    def throttle(self, up: Throttle | None, down: Throttle | None) -> None:
        """Set the bandwidth limits. A throttled side recomputes its delay: the delay at the old rate could be hours."""
        self._rate_up, self._rate_down = up, down
        self.release_client(Hold.RATE)
        self.release_channel(Hold.RATE)

    def idle_for(self, now: float) -> float:
        """Return the seconds without traffic at `now` (loop time), as seen by the calls of this method."""
        moved = self.sent + self.received - self._unsent
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at

    @property
    def has_no_reader(self) -> bool:
        """True if the destination sent EOF and does not take the rest: it reads slowly, or it has gone."""
        return self._channel_eof and self._unsent > 0

    @property
    def _unsent(self) -> int:
        """Bytes that wait in the channel for its send window."""
        return self.channel.get_write_buffer_size() if self.channel is not None else 0

    # --- the channel side --------------------------------------------------------------------------------------

    def opened(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        """Start to relay: the channel is open."""
        self.channel = channel
        if self.client.lost or self._channel_lost or self._ended is None:
            channel.abort()  # the client left, or was refused because the open took too long
            return
        if self.send_on_open:
            self.client.transport.write(self.send_on_open)
        self.release_client(Hold.OPENING)

    def channel_data(self, data: bytes) -> None:
        count = len(data)
        self.received += count
        self.totals.received += count
        if self._unwritten:
            self._unwritten.append(data)
        elif self._gate.flushes_later(self):
            self._unwritten = [data]
        else:
            self.client.transport.write(data)
        if self._rate_down is not None and (pause := self._rate_down.take(count)):
            self._pause_reading(pause, self.hold_channel, self.release_channel)

    def flush(self) -> None:
        """Write the packets of one read with one call: a packet is 32 KiB, and a read may hold eight."""
        data, self._unwritten = self._unwritten, []
        # Through a jump host, one read becomes several reads of the link, and the client may be reset in the first.
        # asyncio warns about a write to a closed transport.
        if data and not self.client.transport.is_closing():
            self.client.transport.write(data[0] if len(data) == 1 else b"".join(data))

    def channel_eof(self) -> None:
        self.flush()
        self._channel_eof = True
        if self._client_eof:
            self._finish("both sides closed")
        elif not self.client.lost:
            self.client.write_eof()

    def channel_lost(self, exc: Exception | None) -> None:
        """Close the client's side: the channel is closed, with an exception if its link died."""
        self.flush()
        self._channel_lost = True
        if not self.client.lost:
            if exc is None:
                self._why = self._why or "closed by the destination"
                self.client.transport.close()  # what the client has not read yet is still delivered
            else:
                self._why = self._why or "the SSH connection was lost"
                self.client.reset()
        self._end_if_over()

    def hold_channel(self, why: Hold) -> None:
        if not self._channel_hold and self.channel is not None:
            self.channel.pause_reading()
        self._channel_hold |= why

    def release_channel(self, why: Hold) -> None:
        self._channel_hold &= ~why
        if not self._channel_hold and self.channel is not None and not self._channel_lost:
            self.channel.resume_reading()

    # --- the client side ---------------------------------------------------------------------------------------

    def client_data(self, data: memoryview) -> None:
        if self.channel is None or self._channel_lost or self.channel.is_closing():
            return  # the destination has gone; the close of this side follows
        count = len(data)
        self.sent += count
        self.totals.sent += count
        self.channel.write(data)  # asyncssh copies it at once: bytes() here would copy twice
        if self._gate.full:
            self.hold_client(Hold.GATE)
            self._gate.wait(self)
        if self._rate_up is not None and (pause := self._rate_up.take(count)):
            self._pause_reading(pause, self.hold_client, self.release_client)

    def client_full(self) -> None:
        self.hold_channel(Hold.CLIENT)

    def client_drained(self) -> None:
        self.release_channel(Hold.CLIENT)

    def client_eof(self) -> None:
        self._client_eof = True
        if self.channel is None or self._channel_lost:
            return
        if self._channel_eof:
            self._finish("both sides closed")
        elif not self.channel.is_closing():
            self.channel.write_eof()

    def client_lost(self) -> None:
        self._why = self._why or ("both sides closed" if self._client_eof else "closed by the client")
        if self.channel is not None and not self._channel_lost:
            # After both EOFs there is nothing to discard. The data of a client that vanished is not delivered.
            if self._client_eof and self._channel_eof:
                self.channel.close()
            else:
                self.channel.abort()
        self._end_if_over()

    def hold_client(self, why: Hold) -> None:
        if not self._client_hold and not self.client.lost:
            self.client.transport.pause_reading()
        self._client_hold |= why

    def release_client(self, why: Hold) -> None:
        self._client_hold &= ~why
        if not self._client_hold and not self.client.lost and not self.client.transport.is_closing():
            self.client.transport.resume_reading()

    # --- the end -----------------------------------------------------------------------------------------------

    def cut(self, why: str) -> None:
        """End the connection now: RST to the client, an immediate close of the channel."""
        self._why = self._why or why
        if not self.client.lost:
            self.client.reset()
        if self.channel is not None and not self._channel_lost:
            abort_with_unsent(self.channel)
        self._end_if_over()

    def abandon(self) -> None:
        """Release the client, which gets another relay: the link died during the open."""
        self.client.relay = None
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended("the SSH connection was lost")

    def open_failed(self) -> None:
        """End without a channel: it could not be opened."""
        self._channel_lost = True
        self._end_if_over()

    def _finish(self, why: str) -> None:
        self._why = self._why or why
        if self.channel is not None:
            self.channel.close()
        if not self.client.lost:
            self.client.transport.close()

    def _end_if_over(self) -> None:
        if self.client.lost and (self._channel_lost or self.channel is None) and self._ended is not None:
            ended, self._ended = self._ended, None
            self._gate.leave(self)
            ended(self._why)

    def _pause_reading(self, pause: float, hold: Callable[[Hold], None], release: Callable[[Hold], None]) -> None:
        hold(Hold.RATE)
        asyncio.get_running_loop().call_later(pause, release, Hold.RATE)
