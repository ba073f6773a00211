"""How many bytes the peer may send on a channel before this side takes them: the receive window, without IO or clock.

A window that is too small leaves the path idle between a WINDOW_ADJUST and the data that it allows. One that is too
large puts a queue in front of the other channels, because the peer sends all that it may. So the window follows what
the client takes:

    window = GAIN * rate * (delay + slack)

rate    bytes a second that the client took, over about one delay, and at least PERIOD
delay   the least round trip of the path in seconds. The least one, because a round trip that includes the queue would
        make the queue grow. It is the link's, and is set in the budget.
slack   time until this side takes what has arrived: about one turn of the loop. If it is set too small, a busy loop
        takes less in each turn than it could.

While the window limits the rate, each period multiplies both by GAIN. When something else does (the path, the server,
the client), the window holds GAIN times what is on its way, and the queue lasts about delay + GAIN * slack.

A window cannot be taken back. A smaller one comes into effect as the peer uses the old one up. A channel that was idle
keeps its window: a pause says nothing about the rate.

All windows of a link come from one budget. At most half of it goes to windows of channels that have not moved data
yet, and each gets at most 1/OPENS of the rest of that half, but at least `least`. Growing windows take at most half of
what is left. Received bytes that the client has not taken count as part of the window, so the memory of a link is
at most its budget, or its channels times `least` if that is more than the budget covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GAIN: Final = 2.0
PERIOD: Final = 0.002  # seconds: shorter measurements mostly show the batches of the event loop
IDLE: Final = 4  # periods without data after which a measurement says nothing
PARTS: Final = 4  # an adjustment is a quarter of the window: few packets, and the rest covers its way
ADJUST_MAX: Final = 256 << 10  # bytes: larger adjustments would make the peer send in bursts
OPENS: Final = 32
START_RATE: Final = 64 << 20  # bytes a second, assumed for a new channel


@dataclass(slots=True)
class WindowBudget:
    """The memory that the windows of one link may use, in bytes, and the delay of its path in seconds.

    least     the smallest window
    usual     the smallest window of a channel that moves data beside others, while the budget lasts. With a smaller one
              there is an adjustment for each packet; with a larger one many downloads make a longer queue.
    alone     the same for the only channel of a link
    most      the largest window
    channels  how many channels the link has now
    """

    total: int = 128 << 20
    least: int = 4 << 10
    usual: int = 512 << 10
    alone: int = 2 << 20
    most: int = 64 << 20
    delay: float = 0.0
    slack: float = 0.00025
    reserved: int = 0
    channels: int = 0

    @property
    def is_for_one(self) -> bool:
        """True while the link has one channel: its queue delays no other."""
        return self.channels == 1

    @property
    def floor(self) -> int:
        """The smallest window of a channel that moves data, at present."""
        return self.alone if self.is_for_one else self.usual

    def first(self) -> int:
        """Reserve the window of a new channel, and return it."""
        wanted = min(self.most, max(self.floor, int(START_RATE * (self.delay + self.slack))))
        window = max(self.least, min(wanted, (self.total // 2 - self.reserved) // OPENS))
        self.reserved += window
        return window

    def change(self, before: int, wanted: int) -> int:
        """Replace a reservation, and return the new one: all of `wanted` if it shrinks, else what is free."""
        after = wanted
        if wanted > before:
            after = before + max(0, min(wanted - before, (self.total - self.reserved) // 2))
        self.reserved += after - before
        return after


class ReceiveWindow:
    """The receive window of one channel.

    left    bytes that the peer may still send
    held    bytes received and not taken
    size    most that `left` and `held` may be together
    """

    __slots__ = ("_budget", "_reserved", "_since", "_taken", "held", "left", "size")

    def __init__(self, budget: WindowBudget) -> None:
        self._budget = budget
        self.size = self.left = self._reserved = budget.first()
        self.held = 0
        self._taken = 0
        self._since: float | None = None  # when the measurement began

    def take(self, count: int, now: float) -> int:
        """Count bytes that the client took at `now` (seconds). Return by how much to adjust the window, 0 for not yet.

        The adjustment is part of `left` from now on.
        """
        self.held -= count
        self._taken += count
        if self._since is None:
            self._since, self._taken = now, 0  # the bytes before arrived in an unknown time
        elif (elapsed := now - self._since) >= PERIOD and elapsed >= self._budget.delay:
            self._measure(elapsed)
            self._since, self._taken = now, 0
        credit = self.size - self.left - self.held
        if credit < ADJUST_MAX and credit * PARTS < self.size:
            return 0
        self.left += credit
        return credit

    def release(self) -> None:
        """Return the window to the budget: the channel has ended."""
        self._budget.reserved -= self._reserved
        self._reserved = 0

    def _measure(self, elapsed: float) -> None:
        budget = self._budget
        rate = self._taken / elapsed
        wanted = int(GAIN * rate * (budget.delay + budget.slack))
        wanted = min(budget.most, max(budget.floor, wanted))
        if wanted < self.size and elapsed > IDLE * max(PERIOD, budget.delay):
            return
        # What the peer may still send stays reserved, although the window is smaller.
        self._reserved = budget.change(self._reserved, max(wanted, self.left + self.held))
        self.size = min(wanted, self._reserved)
