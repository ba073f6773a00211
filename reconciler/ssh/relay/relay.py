"""One client connection: a socket near us, a channel of an SSH link, bytes pumped and counted between them.

Owns: the byte pump for every kind of tunnel, half-close in both orders, back-pressure both ways, the counters.
In: a near transport (accepted or dialled by us) and, later, a far channel. Out: `ended` is called once, when both
sides are closed, with why.

What holds the near side's reading back is a set of reasons (`Hold`); it reads while the set is empty:
  OPENING  the channel is not open yet, so that bytes wait in the kernel, not here
  CHANNEL  the channel's send window is used up
  GATE     the link's own socket is full: asyncssh would buffer without bound, and a small packet of another
           client would wait behind it (DESIGN section 10)
  RATE     the tunnel's bandwidth is used up
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Protocol

import asyncssh

from reconciler.core.observed import ClientInfo
from reconciler.ssh.internals.recv_buffer import merge
from reconciler.ssh.relay.client_transport import ClientTransport


class Hold(IntFlag):
    """Why a side is not read from at the moment."""

    NONE = 0
    OPENING = 1
    CHANNEL = 2
    GATE = 4
    RATE = 8
    NEAR = 16  # (of the far side) the near socket's buffer is full


@dataclass(slots=True)
class Meter:
    """What a tunnel's clients did, counted live. Bytes are as seen from us towards the SSH server."""

    sent: int = 0
    received: int = 0
    active: int = 0
    held: int = 0
    results: dict[str, int] = field(default_factory=dict)

    def count(self, result: str) -> None:
        """One more client that ended its arrival like this: ok, denied, limit, hold_timeout, ..."""
        self.results[result] = self.results.get(result, 0) + 1


class Throttle(Protocol):
    """A shared allowance of bytes; `take` gives the seconds to stop reading for after `count` more bytes."""

    def take(self, count: int) -> float: ...


class Gate(Protocol):
    """What tells a relay that its link is full: it then stops reading and waits in line to be released."""

    @property
    def full(self) -> bool: ...

    def flushes_later(self, relay: Relay) -> bool:
        """Whether more may follow in this very read: `flush` is then called when it has been taken apart."""

    def wait(self, relay: Relay) -> None: ...

    def leave(self, relay: Relay) -> None: ...


class ChannelSession(asyncssh.SSHTCPSession[bytes]):
    """The channel side. A unix channel's session has the same methods."""

    def __init__(self, relay: Relay, window: int = 0) -> None:
        """`window`: of a client of a server's listener, the receive window that it is to get (0: it has its own)."""
        self._relay = relay
        self._window = window

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        merge(chan)
        if self._window:
            # asyncssh has one window for all clients of a listener; the next adjustment is up to this one.
            chan._init_recv_window = self._window  # noqa: SLF001 - no other way in
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
    """The pair. Made with its near side; the far side comes by `opened` (it is the session's connection_made)."""

    __slots__ = (
        "_ended",
        "_far_eof",
        "_far_hold",
        "_far_lost",
        "_gate",
        "_moved",
        "_moved_at",
        "_near_eof",
        "_near_hold",
        "_rate_down",
        "_rate_up",
        "_to_client",
        "_unwritten",
        "_why",
        "channel",
        "client_info",
        "meter",
        "near",
        "received",
        "sent",
    )

    def __init__(
        self,
        near: ClientTransport,
        client_info: ClientInfo,
        meter: Meter,
        gate: Gate,
        ended: Callable[[Relay, str], None],
    ) -> None:
        self.near = near
        self.client_info = client_info
        self.meter = meter
        self.channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self.sent = 0
        self.received = 0
        self._moved = 0
        self._moved_at = asyncio.get_running_loop().time()
        self._to_client = b""
        self._unwritten: list[bytes] = []
        self._gate = gate
        self._ended: Callable[[Relay, str], None] | None = ended
        self._near_hold = Hold.OPENING
        self._far_hold = Hold.NONE
        self._near_eof = False
        self._far_eof = False
        self._far_lost = False
        self._why = ""
        self._rate_up: Throttle | None = None
        self._rate_down: Throttle | None = None
        near.relay = self

    def throttle(self, up: Throttle | None, down: Throttle | None) -> None:
        """Keep to these allowances from now on. Who rests asks anew: at the old rate it might be for hours."""
        self._rate_up, self._rate_down = up, down
        self.release_client(Hold.RATE)
        self.release_channel(Hold.RATE)

    def begin_with(self, to_client: bytes) -> None:
        """What to tell the client when the channel opens: the end of its handshake."""
        self._to_client = to_client

    def idle_for(self, now: float) -> float:
        """For how long nothing has moved, as of the calls of this method (loop time)."""
        moved = self.sent + self.received - self._unsent
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at

    @property
    def has_no_reader(self) -> bool:
        """Whether the far side says no more and takes no more: it reads slowly, or it is not there."""
        return self._far_eof and self._unsent > 0

    @property
    def _unsent(self) -> int:
        """Bytes that the channel keeps until there is room for them on the far side."""
        return self.channel.get_write_buffer_size() if self.channel is not None else 0

    # --- the far side ------------------------------------------------------------------------------------------

    def opened(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        """The channel is open: let the client speak."""
        self.channel = channel
        if self.near.lost or self._far_lost or self._ended is None:
            channel.abort()  # the client left meanwhile, or was told that this took too long
            return
        if self._to_client:
            self.near.transport.write(self._to_client)
        self.release_client(Hold.OPENING)

    def channel_data(self, data: bytes) -> None:
        count = len(data)
        self.received += count
        self.meter.received += count
        if self._unwritten:
            self._unwritten.append(data)
        elif self._gate.flushes_later(self):
            self._unwritten = [data]
        else:
            self.near.transport.write(data)
        if self._rate_down is not None and (pause := self._rate_down.take(count)):
            self._rest(pause, self.hold_channel, self.release_channel)

    def flush(self) -> None:
        """Write what came in one read with one call: a packet is 32 KiB, and a read may hold eight of them."""
        data, self._unwritten = self._unwritten, []
        # By a jump host, one read is several of the link's own. asyncio warns of writing to who was reset in the first.
        if data and not self.near.transport.is_closing():
            self.near.transport.write(data[0] if len(data) == 1 else b"".join(data))

    def channel_eof(self) -> None:
        self.flush()
        self._far_eof = True
        if self._near_eof:
            self._finish("both sides closed")
        elif not self.near.lost:
            self.near.write_eof()

    def channel_lost(self, exc: Exception | None) -> None:
        """The channel is closed; with an exception if its link died."""
        self.flush()
        self._far_lost = True
        if not self.near.lost:
            if exc is None:
                self._why = self._why or "closed by the destination"
                self.near.transport.close()  # what the client has not read yet is still delivered
            else:
                self._why = self._why or "the SSH connection was lost"
                self.near.reset()
        self._end_if_over()

    def hold_channel(self, why: Hold) -> None:
        if not self._far_hold and self.channel is not None:
            self.channel.pause_reading()
        self._far_hold |= why

    def release_channel(self, why: Hold) -> None:
        self._far_hold &= ~why
        if not self._far_hold and self.channel is not None and not self._far_lost:
            self.channel.resume_reading()

    # --- the near side -----------------------------------------------------------------------------------------

    def client_data(self, data: memoryview) -> None:
        if self.channel is None or self._far_lost or self.channel.is_closing():
            return  # it speaks to somebody who has gone; its own close follows
        count = len(data)
        self.sent += count
        self.meter.sent += count
        self.channel.write(data)  # copied there at once: bytes() here would copy twice
        if self._gate.full:
            self.hold_client(Hold.GATE)
            self._gate.wait(self)
        if self._rate_up is not None and (pause := self._rate_up.take(count)):
            self._rest(pause, self.hold_client, self.release_client)

    def client_full(self) -> None:
        self.hold_channel(Hold.NEAR)

    def client_drained(self) -> None:
        self.release_channel(Hold.NEAR)

    def client_eof(self) -> None:
        self._near_eof = True
        if self.channel is None or self._far_lost:
            return
        if self._far_eof:
            self._finish("both sides closed")
        elif not self.channel.is_closing():
            self.channel.write_eof()

    def client_lost(self) -> None:
        self._why = self._why or ("both sides closed" if self._near_eof else "closed by the client")
        if self.channel is not None and not self._far_lost:
            # After both ends said EOF there is nothing to discard; a client that vanished wants nothing delivered.
            if self._near_eof and self._far_eof:
                self.channel.close()
            else:
                self.channel.abort()
        self._end_if_over()

    def hold_client(self, why: Hold) -> None:
        if not self._near_hold and not self.near.lost:
            self.near.transport.pause_reading()
        self._near_hold |= why

    def release_client(self, why: Hold) -> None:
        self._near_hold &= ~why
        if not self._near_hold and not self.near.lost and not self.near.transport.is_closing():
            self.near.transport.resume_reading()

    # --- the end -----------------------------------------------------------------------------------------------

    def cut(self, why: str) -> None:
        """End it now: RST to the client, an immediate close to the far side."""
        self._why = self._why or why
        if not self.near.lost:
            self.near.reset()
        if self.channel is not None and not self._far_lost:
            # abort() alone leaves one that waits to be closed, until its far reader has taken the rest, as it is.
            self.channel._close_send()  # noqa: SLF001 - as said
            self.channel.abort()
        self._end_if_over()

    def abandon(self) -> None:
        """The link died under the open: let go of the client, who will be given another relay."""
        self.near.relay = None
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(self, "the SSH connection was lost")

    def unopened(self) -> None:
        """The channel could not be opened: nothing far is left to wait for."""
        self._far_lost = True
        self._end_if_over()

    def _finish(self, why: str) -> None:
        self._why = self._why or why
        if self.channel is not None:
            self.channel.close()
        if not self.near.lost:
            self.near.transport.close()

    def _end_if_over(self) -> None:
        if self.near.lost and (self._far_lost or self.channel is None) and self._ended is not None:
            ended, self._ended = self._ended, None
            self._gate.leave(self)
            ended(self, self._why)

    def _rest(self, pause: float, hold: Callable[[Hold], None], release: Callable[[Hold], None]) -> None:
        hold(Hold.RATE)
        asyncio.get_running_loop().call_later(pause, release, Hold.RATE)
