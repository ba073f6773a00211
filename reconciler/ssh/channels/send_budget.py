"""How much each channel of a link may have on its way to the peer, without IO or clock.

The peer reads its packets in order, so a small packet of one channel waits behind all bytes of the others. While only
bulk data is sent, no small packet waits, and more on its way costs less CPU time. So the channels that send much share
a large budget, or a small one while others send little beside them.

A channel sends much if the peer has adjusted its window within BULK: peers do that after tens of KiB or more.

No server is known that makes a window smaller while it is in use. If one does, less is on its way than we count, and it
may wait for more before it adjusts. `stalled` finds such channels.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

ALL: Final = 2 << 20  # bytes: the window that OpenSSH's sshd gives to one channel
BESIDE: Final = 256 << 10  # bytes, while other channels send little
RECENT: Final = 1.0  # seconds in which a channel must have sent: longer than the pauses of a person who types
BULK: Final = 0.1  # seconds

S = TypeVar("S")


class SendBudget(Generic[S]):
    """The budget of one link.

    last  the channel that sent last
    """

    __slots__ = ("_adjusted", "_bulk", "_now", "_senders", "last")

    def __init__(self) -> None:
        self.last: S | None = None
        self._now = 0.0
        # The time at which each channel sent last, or its window was adjusted; the oldest first.
        self._senders: dict[S, float] = {}
        self._bulk: dict[S, float] = {}
        self._adjusted: set[S] = set()

    def sent(self, sender: S) -> None:
        """Note that a channel sends. Needed only if it is not `last`: so most packets cost no call."""
        # The time of the last call of `share` is near enough: there are thousands a second beside bulk data.
        self.last = sender
        _note(self._senders, sender, self._now)

    def share(self, sender: S, now: float) -> int:
        """Return how many bytes a channel may have on its way. Its window was adjusted at `now` (seconds)."""
        self._now = now
        self._adjusted.add(sender)
        for times, period in ((self._senders, RECENT), (self._bulk, BULK)):
            _note(times, sender, now)
            while times[oldest := next(iter(times))] < now - period:
                del times[oldest]
        bulk = len(self._bulk)
        return (BESIDE if len(self._senders) > bulk else ALL) // bulk

    def stalled(self, now: float) -> list[S]:
        """Return the channels that have sent much before, and nothing within RECENT."""
        return [sender for sender in self._adjusted if self._senders.get(sender, 0.0) < now - RECENT]

    def forget(self, sender: S) -> None:
        """Drop a channel that has ended."""
        self._senders.pop(sender, None)
        self._bulk.pop(sender, None)
        self._adjusted.discard(sender)
        if self.last is sender:
            self.last = None


def _note(times: dict[S, float], sender: S, now: float) -> None:
    times.pop(sender, None)
    times[sender] = now
