"""The channels of one link: numbers, limits, and the dispatch of packets. No IO and no clock.

The link calls
  receive_data(packet)  with each payload of data
  receive(packet)       with the payloads that receive_data did not take, and the others of types 90 to 100, if they are
                        for a channel that the mux owns, or ask for one that the mux accepts
  outbox.write_packets(rooms)  for the next payloads to seal, while `outbox.pending`
  go_on()               about once a second while packets arrive
  end(reason)           when the connection is lost
and sets `now` (seconds) once in each turn of its loop, and `budget.delay` when it knows the path. The mux calls `wake`
when there is something to send: within any call, so `wake` only schedules the sending. `receive` raises
`LinkViolationError` for what no channel can be ended for: the link then disconnects, and calls `end`.

A packet for a number that was used before, and is free now, was sent late: it is ignored, within a limit. One for a
number that was never used is a violation of the link, as it is for OpenSSH (channel_from_packet_id).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from struct import Struct
from typing import Final

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.fields import MalformedError
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import HEAD, Forward, ForwardedTcp, ForwardedUnix, OpenError, OpenRequest, Packet
from reconciler.ssh.channels.numbers import NumberError, Numbers
from reconciler.ssh.channels.outbox import Outbox
from reconciler.ssh.channels.send_side import PACKET_MAX, PACKET_MIN
from reconciler.ssh.channels.states import ChannelState
from reconciler.ssh.channels.window import ReceiveWindow, WindowBudget

CONTROL_SPARE: Final = 4096  # unsent control packets beyond four for each channel that is allowed

_KINDS = {kind.value: kind for kind in Packet}
_LEAST = 5  # bytes: the type and a number
_SENDING = (ChannelState.OPEN, ChannelState.EOF_RECEIVED)
_OPEN, _EOF_SENT = ChannelState.OPEN, ChannelState.EOF_SENT
_DATA_WORDS = Struct(">II")
_WORD = Struct(">I")


class LinkViolationError(Exception):
    """Raised for a packet after which the link must end. The text says what the peer sent."""


class LimitError(Exception):
    """Raised for a channel beyond the limits of the link, or after its end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request of the peer that is refused."""

    code: OpenError
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one link.

    channels  most channels at once, also those that only the peer has not closed
    opening   most unanswered requests of this side
    offered   most unanswered requests of the peer
    """

    channels: int = 32 << 10
    opening: int = 16 << 10
    offered: int = 512


# Called with a channel that the peer asks for, and for what. Returns its handler, which calls the channel's `accept` or
# `refuse`, now or later; or a refusal.
Offer = Callable[[Channel, Forward], ChannelHandler | Refusal]


class Mux:
    """The channels of one link.

    accepts   kinds of channels that the peer may ask for; others are refused
    first     the lowest number. Numbers from here on are the mux's: other users of the connection number from 0.
    send_max  most bytes of data in a packet that is sent, at most PACKET_MAX. Dropbear with compression takes one byte
              less than it says (asyncssh, _process_channel_open_confirmation).
    """

    def __init__(
        self,
        wake: Callable[[], None],
        offer: Offer,
        budget: WindowBudget,
        limits: Limits = Limits(),
        accepts: AbstractSet[type[Forward]] = frozenset({ForwardedTcp, ForwardedUnix}),
        first: int = 0,
        send_max: int = PACKET_MAX,
    ) -> None:
        self.now = 0.0
        self.outbox = Outbox(wake)
        self.budget = budget
        self.send_max = send_max
        self._offer = offer
        self._limits = limits
        self._accepts = accepts
        self._first = first
        self._numbers = Numbers(first)
        self._channels: dict[int, Channel] = {}
        self._opening = 0  # our unanswered requests
        self._offered = 0  # the peer's
        self._control_max = 4 * limits.channels + CONTROL_SPARE
        self._ended = ""

    def __len__(self) -> int:
        """Return the number of channels, also of those that only the peer has not closed."""
        return len(self._channels)

    def owns(self, number: int) -> bool:
        """Return True if packets for this number are for `receive`."""
        return number >= self._first

    def open(self, what: Forward, handler: ChannelHandler) -> Channel:
        """Ask the peer for a channel. Raises LimitError."""
        if self._ended:
            raise LimitError(self._ended)
        if len(self._channels) >= self._limits.channels:
            raise LimitError(f"too many channels on one SSH connection (limit {self._limits.channels})")
        if self._opening >= self._limits.opening:
            raise LimitError(f"too many channels wait for the SSH server (limit {self._limits.opening})")
        channel = self._add()
        channel.handler = handler
        self._opening += 1
        request = messages.open_channel(channel.number, channel.window.size, PACKET_MAX, what)
        self.outbox.send(request)
        return channel

    def receive_data(self, packet: memoryview) -> bool:
        """Handle a packet of type DATA. Return False, and do nothing, if it is for `receive` or not for the mux.

        Nearly all packets come here, so this makes no call but the handler's.
        """
        if len(packet) < HEAD:
            return False
        number, count = _DATA_WORDS.unpack_from(packet, 1)
        channel = self._channels.get(number)
        if channel is None or ((state := channel.state) is not _OPEN and state is not _EOF_SENT):
            return False
        window = channel.window
        if not 0 < count <= window.left or count > PACKET_MAX or count != len(packet) - HEAD:
            return False
        window.left -= count
        window.held += count
        channel.handler.data(packet[HEAD:])
        return True

    def receive(self, packet: memoryview) -> None:
        """Handle a packet: its payload, valid during the call. Raises LinkViolationError."""
        if self._ended:
            return
        kind = _KINDS.get(packet[0]) if len(packet) >= _LEAST else None
        if kind is None:
            raise LinkViolationError(f"the peer sent {bytes(packet[:_LEAST])!r}, which is no packet of a channel")
        if kind is Packet.OPEN:
            self._requested(packet)
        else:
            (number,) = _WORD.unpack_from(packet, 1)
            channel = self._channels.get(number)
            if channel is not None:
                channel.receive(kind, packet)
            else:
                try:
                    self._numbers.count_late(number)
                except NumberError as error:
                    raise LinkViolationError(f"the peer sent {kind.name} {error}") from None
        self._check_unsent()

    def go_on(self) -> None:
        """Let a channel send more if its peer waits for that before it adjusts the window."""
        for channel in self.outbox.budget.stalled(self.now):
            if channel.is_held_back and channel.state in _SENDING:
                channel.release()
                channel.allow()
                self.outbox.schedule(channel)

    def end(self, reason: str) -> None:
        """End all channels: the link has ended.

        If a handler raises, which is an internal error, the others are called nevertheless.
        """
        self._ended = self._ended or reason
        fault: Exception | None = None
        for channel in tuple(self._channels.values()):
            try:
                channel.lost(reason)
            except Exception as error:  # noqa: BLE001 - raised below
                fault = error
        self.outbox.clear()
        if fault is not None:
            raise fault

    # --- calls of the channels ---------------------------------------------------------------------------------

    def answered(self, channel: Channel) -> None:
        if channel.by_peer:
            self._offered -= 1
        else:
            self._opening -= 1

    def remove(self, channel: Channel) -> None:
        del self._channels[channel.number]
        self.budget.channels = len(self._channels)
        self._numbers.free(channel.number)

    # -----------------------------------------------------------------------------------------------------------

    def _check_unsent(self) -> None:
        """Raise LinkViolationError if the peer causes answers and does not read them.

        Four packets for each channel may wait during a key exchange. Window adjustments are merged.
        """
        if len(self.outbox.control) > self._control_max:
            raise LinkViolationError(f"the peer does not read {len(self.outbox.control)} answers to its packets")

    def _requested(self, packet: memoryview) -> None:
        try:
            request = messages.parse_open(packet)
        except MalformedError as error:
            self._refuse_malformed(packet, error)
            return
        refusal = self._refusal(request)
        if refusal is None and request.what is not None:
            channel = self._add()
            channel.offer(request.number, request.window, request.packet_max)
            self._offered += 1
            match self._offer(channel, request.what):
                case Refusal(code, reason):
                    channel.refuse(code, reason)
                case handler:
                    channel.handler = handler
        elif refusal is not None:
            self.outbox.send(messages.open_failure(request.number, refusal.code, refusal.reason))

    def _refuse_malformed(self, packet: memoryview, error: MalformedError) -> None:
        try:
            number = messages.parse_open_number(packet)
        except MalformedError:
            raise LinkViolationError(f"the peer sent a malformed OPEN: {error}") from None
        self.outbox.send(messages.open_failure(number, OpenError.PROHIBITED, f"malformed request: {error}"))

    def _refusal(self, request: OpenRequest) -> Refusal | None:
        if request.what is None or type(request.what) not in self._accepts:
            return Refusal(OpenError.UNKNOWN_TYPE, "unknown channel type")
        if request.packet_max < PACKET_MIN:
            reason = f"a channel takes {request.packet_max} bytes in a packet: expected at least {PACKET_MIN}"
            return Refusal(OpenError.PROHIBITED, reason)
        if self._offered >= self._limits.offered or len(self._channels) >= self._limits.channels:
            return Refusal(OpenError.RESOURCE_SHORTAGE, "too many channels at once")
        return None

    def _add(self) -> Channel:
        number = self._numbers.take()
        self.budget.channels = len(self._channels) + 1
        channel = self._channels[number] = Channel(self, number, ReceiveWindow(self.budget))
        return channel
