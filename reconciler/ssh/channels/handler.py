"""The interfaces on both sides of a channel: its handler, which serves the client, and its owner, the mux."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reconciler.ssh.channels.channel import Channel
    from reconciler.ssh.channels.outbox import Outbox
    from reconciler.ssh.channels.window import WindowBudget


class ChannelHandler(Protocol):
    """The client's side of a channel.

    Direct calls, not event values: data then costs no object for each packet but the memoryview. A frozen dataclass and
    the `match` that takes it apart again take four times as long as the call (measured).

    A handler may call the channel from within any of these. After `open_failed`, `closed`, or its own `close` or
    `refuse` only `gone` is called.
    """

    def opened(self) -> None:
        """The peer confirmed the channel: it may be sent to. Not called for a channel that the peer opened."""

    def open_failed(self, code: int, reason: str) -> None:
        """The channel was not opened. `code`: an OpenError, or another code of the peer. `reason`: the peer's text."""

    def data(self, data: memoryview) -> None:
        """Take received bytes. `data` is valid during the call. Call `Channel.take` when the client has them."""

    def read(self, space: Sequence[memoryview]) -> int:
        """Write bytes to send into `space`: views of one size, at least one, filled in their order.

        Return the count of bytes, 0 if there are none for now.

        After 0 the handler calls `Channel.ready` when there are bytes again.
        """

    def eof(self) -> None:
        """The peer sends no more data."""

    def closed(self, reason: str) -> None:
        """The channel has ended. `reason`: "" if the peer closed it, else how the peer or the link failed."""

    def gone(self) -> None:
        """Both sides closed the channel, or the peer did not open it, or the link has ended.

        Called once, for each channel but one that this side has not accepted. It precedes `open_failed` or `closed` if
        one packet, or the end of the link, is the reason for both.
        """


class WaitingHandler(ChannelHandler):
    """A handler that has no client yet: it sends nothing, and takes nothing."""

    def opened(self) -> None: ...

    def open_failed(self, code: int, reason: str) -> None: ...

    def data(self, data: memoryview) -> None: ...

    def read(self, space: Sequence[memoryview]) -> int:
        return 0

    def eof(self) -> None: ...

    def closed(self, reason: str) -> None: ...

    def gone(self) -> None: ...


class ChannelOwner(Protocol):
    """The mux, as its channels see it.

    now       the time in seconds
    budget    of the receive windows; has the delay of the path
    outbox    where packets go
    send_max  most bytes of data in a packet that is sent
    """

    now: float
    budget: WindowBudget
    outbox: Outbox
    send_max: int

    def answered(self, channel: Channel) -> None:
        """The request for this channel was answered, or has ended."""

    def remove(self, channel: Channel) -> None:
        """Both sides closed this channel."""
