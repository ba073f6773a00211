"""The packets that the channels of one link have to send, in the order in which they are sealed.

First control packets, oldest first, then window adjustments, then data by the schedule. Data is never queued here: its
channel is asked for it when its turn comes, and so the EOF or CLOSE behind it keeps its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reconciler.ssh.channels.messages import HEAD, window_adjust
from reconciler.ssh.channels.schedule import Schedule
from reconciler.ssh.channels.send_budget import SendBudget

if TYPE_CHECKING:
    from reconciler.ssh.channels.channel import Channel


class Outbox:
    """`wake` is called when `pending` becomes True.

    pending  there may be something to send
    budget   how much the channels may have on its way
    """

    __slots__ = ("_adjustments", "_schedule", "_wake", "budget", "control", "pending")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.control: deque[bytes] = deque()
        # One entry for each channel, however often its window is adjusted before the link can send.
        self._adjustments: dict[Channel, int] = {}
        self._schedule: Schedule[Channel] = Schedule()
        self.budget: SendBudget[Channel] = SendBudget()
        self._wake = wake
        self.pending = False

    # The three below ask before they call `_signal`: a call costs a round trip of a small packet about 1 %.

    def send(self, packet: bytes) -> None:
        self.control.append(packet)
        if not self.pending:
            self._signal()

    def adjust(self, channel: Channel, count: int) -> None:
        self._adjustments[channel] = self._adjustments.get(channel, 0) + count
        if not self.pending:
            self._signal()

    def forget(self, channel: Channel) -> None:
        """Drop the adjustment of a channel that is being closed: no packet may follow its CLOSE."""
        self._adjustments.pop(channel, None)
        self.budget.forget(channel)

    def schedule(self, channel: Channel) -> None:
        """Give a turn to a channel that has bytes to send."""
        if channel.sendable:
            self._schedule.add(channel)
            if not self.pending:
                self._signal()

    def _next_control(self) -> bytes:
        """Remove and return the next packet that is not data. There is one."""
        if self.control:
            packet = self.control.popleft()
        else:
            channel = next(iter(self._adjustments))
            packet = window_adjust(channel.peer, self._adjustments.pop(channel))
        self.pending = bool(self.control or self._adjustments or self._schedule)
        return packet

    def write_packets(self, rooms: Sequence[memoryview]) -> Sequence[int]:
        """Write the next packets, each into a room of its own. Return the lengths of those in the first rooms.

        There are none if there is nothing to send, and several if a client has more data than one packet holds.
        """
        while self.pending:
            # Again after each `read`, which may have met the end of the client's data: EOF follows.
            if self.control or self._adjustments:
                packet = self._next_control()
                rooms[0][: len(packet)] = packet
                return (len(packet),)
            channel = self._schedule.next()
            if channel is None:
                self.pending = False
                break
            most = channel.sendable
            space = [rooms[0][HEAD : HEAD + most]]
            if channel.is_filled:
                space += [room[HEAD : HEAD + most] for room in rooms[1 : channel.packets]]
            count = channel.handler.read(space)
            if not count:
                channel.wants = False
                continue
            if channel is not self.budget.last:
                self.budget.sent(channel)
            if not channel.wants:
                self.pending = self._schedule.skip() or bool(self.control or self._adjustments)
            return channel.put_heads(rooms, most, count)
        return ()

    def clear(self) -> None:
        self.control.clear()
        self._adjustments.clear()
        self._schedule.clear()

    def _signal(self) -> None:
        self.pending = True
        self._wake()
