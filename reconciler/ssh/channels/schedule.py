"""Which channel sends next: rounds in which each channel may send QUANTUM bytes, and those that send little go first.

A channel that has used up its turn continues in the next round (deficit round robin). One that becomes ready, and has
sent less than SMALL bytes in this round, sends before the others: so a few bytes of one client pass the bulk data of
its neighbours, again and again, but its bytes in a round are limited like theirs.

Each step costs the same, whatever the number of channels: a channel that is visited in vain leaves its list.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from reconciler.ssh.channels.send_side import SendSide

# Two packets of the usual size: one read of a client's socket. Larger turns would make a neighbour wait longer.
QUANTUM: Final = 64 << 10
SMALL: Final = 4 << 10

S = TypeVar("S", bound=SendSide)


class Schedule(Generic[S]):
    """The turns of the channels that have bytes to send."""

    __slots__ = ("_first", "_next", "_round", "_this")

    def __init__(self) -> None:
        self._round = 0
        self._first: deque[S] = deque()  # of this round: became ready in it, and have sent little
        self._this: deque[S] = deque()  # the others of this round
        self._next: deque[S] = deque()  # have used up their turns

    def __bool__(self) -> bool:
        """Return False if no channel can send."""
        return bool(self._this or self._first or self._next)

    def add(self, sender: S) -> None:
        """Add a channel that can send from now on."""
        if sender.listed:
            return
        sender.listed = True
        if sender.round < self._round:
            sender.round, sender.turn = self._round, QUANTUM
        if sender.round > self._round:
            self._next.append(sender)
        else:
            (self._first if sender.turn > QUANTUM - SMALL else self._this).append(sender)

    def next(self) -> S | None:
        """Return the channel that sends next, None if none can."""
        while True:
            queue = self._first or self._this
            if not queue:
                if not self._next:
                    return None
                self._round += 1
                self._this, self._next = self._next, self._this
                continue
            sender = queue[0]
            if not sender.wants or not sender.sendable:
                queue.popleft()
                sender.listed = False
            elif sender.turn <= 0:
                sender.turn += QUANTUM
                sender.round += 1
                self._next.append(queue.popleft())
            elif queue is self._first and sender.turn <= QUANTUM - SMALL:
                self._this.append(queue.popleft())
            else:
                return sender

    def skip(self) -> bool:
        """Remove the channel that `next` returned last: it has no more to send. Return False if no other can."""
        (self._first or self._this).popleft().listed = False
        return bool(self._first or self._this or self._next)

    def clear(self) -> None:
        for queue in (self._first, self._this, self._next):
            queue.clear()
