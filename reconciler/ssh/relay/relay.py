"""The relay of one client connection: moves and counts bytes between its socket and a channel.

Serves all kinds of tunnels: half-close in both orders, back-pressure both ways, bandwidth limits, the counters. Input:
a client's socket (accepted, or dialled from here) and, later, a channel. Output: `ended` is called once with the
reason, when the socket is closed and the channel is closed on both sides.

Towards the server, the client's socket is read when the channel's turn comes, straight into the buffer that is sealed.
So bytes that cannot be sent wait in the kernel, and its limit slows down the client. From the server, what was opened
is written to the client's socket when the packets of one read are handled; a copy is made of what the socket does not
take. The server may send more only for bytes that it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.relay.client_socket import EOF, ClientSocket

LINK_LOST = "the SSH connection was lost"
TAKEN_MIN = 512  # bytes that a client took before the server may send as many more: an eighth of the smallest window


class Totals(Protocol):
    """The bytes of all clients of a tunnel: towards the SSH server, and from it."""

    sent: int
    received: int


class Throttle(Protocol):
    """A shared bandwidth limit. `take` returns the seconds to wait after `count` more bytes."""

    def take(self, count: int) -> float: ...


class Driver(Protocol):
    """The link's driver of its channels, as a relay sees it."""

    undelivered: list[Relay]  # `deliver` is called for each after the packets of the present read

    def ready(self, channel: Channel) -> None:
        """Send what this channel, and perhaps others, have to send."""


class Request(Protocol):
    """A request for a channel that is not answered yet."""

    def cancel(self) -> None: ...


class Relay:
    """Connects a client's socket with a channel, whose handler it is.

    request       the request for the channel, while it is not answered
    send_on_open  bytes for the client when the channel opens: the end of its handshake
    """

    __slots__ = (
        "_channel_closed",
        "_channel_eof",
        "_channel_gone",
        "_client_eof",
        "_driver",
        "_ended",
        "_moved",
        "_moved_at",
        "_pieces",
        "_rate_down",
        "_rate_up",
        "_untaken",
        "_waits_down",
        "_waits_up",
        "_why",
        "channel",
        "client",
        "received",
        "request",
        "send_on_open",
        "sent",
        "totals",
    )

    def __init__(self, client: ClientSocket, totals: Totals, driver: Driver, ended: Callable[[str], None]) -> None:
        self.client = client
        self.totals = totals
        self.channel: Channel | None = None
        self.request: Request | None = None
        self.sent = 0
        self.received = 0
        self.send_on_open = b""
        self._moved = 0
        self._moved_at = asyncio.get_running_loop().time()
        self._pieces: list[memoryview] = []  # received in the present read
        self._untaken = 0  # the client took them, and the bandwidth limit lets the server know later
        self._driver = driver
        self._ended: Callable[[str], None] | None = ended
        self._client_eof = False
        self._channel_eof = False
        self._channel_closed = False  # for this side: nothing is sent or received any more
        self._channel_gone = False  # for both sides, or it was never open
        self._why = ""
        self._rate_up: Throttle | None = None
        self._rate_down: Throttle | None = None
        self._waits_up = False
        self._waits_down = False
        client.relay = self

    def throttle(self, up: Throttle | None, down: Throttle | None) -> None:
        """Set the bandwidth limits. A throttled side recomputes its delay: the delay at the old rate could be hours."""
        self._rate_up, self._rate_down = up, down
        if self._waits_up:
            self._go_on_up()
        if self._waits_down:
            self._go_on_down()

    def idle_for(self, now: float) -> float:
        """Return the seconds without traffic at `now` (loop time), as seen by the calls of this method."""
        moved = self.sent + self.received
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at

    @property
    def has_no_reader(self) -> bool:
        """True if the destination sent EOF and does not take the rest: it reads slowly, or it has gone."""
        channel = self.channel
        return self._channel_eof and channel is not None and channel.wants and not channel.sendable

    # --- towards the server ------------------------------------------------------------------------------------

    def start(self, channel: Channel) -> None:
        """Start to relay: the channel is open."""
        self.request = None
        self.channel = channel
        channel.handler = self
        if self.client.lost:
            self._close_channel()
            return
        if self.send_on_open:
            self.client.write((self.send_on_open,))
        channel.ready()  # most clients speak first: it is read in this turn of the loop

    def client_readable(self) -> None:
        assert self.channel is not None
        self._driver.ready(self.channel)
        if self.channel.wants:  # it is read when its turn comes
            self.client.unwatch()

    def read(self, space: Sequence[memoryview]) -> int:
        assert self.channel is not None
        if self._waits_up or self._channel_closed:
            return 0
        if self._rate_up is not None:
            space = space[:1]  # a slow rate would make a long pause after several
        count = self.client.read_into(space)
        if count > 0:
            self.sent += count
            self.totals.sent += count
            if self._rate_up is not None and (pause := self._rate_up.take(count)):
                self._waits_up = True
                self.channel.wants = False
                self.client.unwatch()
                asyncio.get_running_loop().call_later(pause, self._go_on_up)
            elif count < len(space) * len(space[0]):
                self.channel.wants = False
                if not self.client.watched:
                    self.client.watch()
            return count
        if count == EOF:
            self._client_ended()
        elif not self.client.lost:
            self.client.watch()
        return 0

    def _go_on_up(self) -> None:
        self._waits_up = False
        if not self._client_eof and not self._channel_closed:
            self.client.watch()

    def _client_ended(self) -> None:
        self._client_eof = True
        self.client.unwatch()
        if self.channel is not None:
            self.channel.send_eof()
        if self._channel_eof:
            self._finish()

    # --- from the server ---------------------------------------------------------------------------------------

    def opened(self) -> None:
        """Not called: the relay becomes the handler of a channel that is open."""

    def open_failed(self, code: int, reason: str) -> None:
        """Not called: see `opened`."""

    def data(self, data: memoryview) -> None:
        if not self._pieces:
            self._driver.undelivered.append(self)
        self._pieces.append(data)

    def deliver(self) -> None:
        """Write the data of one read with one call: a packet is 32 KiB, and a read may hold eight."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            count = sum(map(len, pieces))
            self.received += count
            self.totals.received += count
            taken = self.client.write(pieces)
            if self._rate_down is not None:
                self.client_took(taken)
            else:  # as `client_took`, without calls: the next small packet waits for what is done here
                self._untaken += taken
                if self._untaken >= TAKEN_MIN:
                    self._let_send()

    def client_took(self, count: int) -> None:
        self._untaken += count
        if self._rate_down is not None and (pause := self._rate_down.take(count)) and not self._waits_down:
            self._waits_down = True
            asyncio.get_running_loop().call_later(pause, self._go_on_down)
        if not self._waits_down:
            self._let_send()

    def _go_on_down(self) -> None:
        self._waits_down = False
        self._let_send()

    def _let_send(self) -> None:
        """Let the server send as much as was taken."""
        if self.channel is not None and not self._channel_closed:
            count, self._untaken = min(self._untaken, self.channel.window.held), 0
            if count:
                self.channel.take(count)

    def eof(self) -> None:
        self.deliver()
        self._channel_eof = True
        if self._client_eof:
            self._finish()
        else:
            self.client.write_eof()

    def closed(self, reason: str) -> None:
        """End the client: the peer closed the channel, or it or the link failed."""
        self.deliver()
        self._channel_closed = True
        if reason:
            self._why = self._why or reason
            self.client.reset()
        else:
            self._why = self._why or "closed by the destination"
            self.client.close()  # what the client has not read yet is still delivered

    def gone(self) -> None:
        self._channel_closed = self._channel_gone = True
        self._end_if_over()

    # --- the end -----------------------------------------------------------------------------------------------

    def client_lost(self) -> None:
        self._why = self._why or ("both sides closed" if self._client_eof else "closed by the client")
        self._close_channel()
        self._end_if_over()

    def cut(self, why: str) -> None:
        """End the connection now: RST to the client, an immediate close of the channel."""
        self._why = self._why or why
        if self.request is not None:
            request, self.request = self.request, None
            request.cancel()
        self._close_channel()
        self.client.reset()
        self._end_if_over()

    def abandon(self) -> None:
        """Release the client, which gets another relay: the link died during the open."""
        self.request = None
        self.client.relay = None
        self._ended = None

    def _finish(self) -> None:
        """Close both sides when the client has all bytes: both have sent EOF."""
        self._why = self._why or "both sides closed"
        self.client.close()

    def _close_channel(self) -> None:
        if self.channel is not None and not self._channel_closed:
            self._channel_closed = True
            self.channel.close()

    def _end_if_over(self) -> None:
        if self.client.lost and (self._channel_gone or self.channel is None) and self._ended is not None:
            ended, self._ended = self._ended, None
            self.channel = None  # the reference cycle would last until a full collection
            ended(self._why)
