"""One channel: its state, its two windows, and the packets and calls that change them (RFC 4254 section 5).

Input: packets for it from the `Mux`, calls from its handler. Output: calls of its handler, packets to the `Outbox`.
A packet that violates the protocol ends this channel alone: it is closed, and the handler gets the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, assert_never

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.fields import MalformedError, PacketFields
from reconciler.ssh.channels.handler import ChannelHandler, ChannelOwner
from reconciler.ssh.channels.messages import OpenError, Packet
from reconciler.ssh.channels.send_side import PACKET_MAX, PACKET_MIN, SendSide
from reconciler.ssh.channels.states import CALLED, RECEIVED, Call, ChannelState
from reconciler.ssh.channels.window import ReceiveWindow

EXCESS: Final = 10  # a peer may exceed its window by one part in ten


class Channel(SendSide):
    """A channel. Its handler calls the public methods.

    number   our number of it; packets of the peer carry it
    by_peer  the peer asked for it
    window   what the peer may send
    handler  set by the mux before the first packet
    """

    __slots__ = ("_owner", "by_peer", "handler", "number", "state", "window")
    handler: ChannelHandler

    def __init__(self, owner: ChannelOwner, number: int, window: ReceiveWindow) -> None:
        super().__init__()
        self.number = number
        self.by_peer = False
        self.state = ChannelState.OPENING
        self.window = window
        self._owner = owner

    def offer(self, peer: int, window: int, packet_max: int) -> None:
        """Make this a channel that the peer asked for. `window`, `packet_max`: how much may be sent, in bytes."""
        self.state, self.by_peer = ChannelState.OFFERED, True
        self.set_limits(peer, window, min(packet_max, self._owner.send_max))

    # --- calls of the handler ----------------------------------------------------------------------------------

    def accept(self) -> None:
        """Confirm a channel that the peer asked for."""
        if self._call(Call.ACCEPT):
            confirmation = messages.open_confirmation(self.peer, self.number, self.window.size, PACKET_MAX)
            self._owner.outbox.send(confirmation)
            self._update_sendable()

    def refuse(self, code: OpenError, reason: str) -> None:
        """Refuse a channel that the peer asked for."""
        if self._call(Call.REFUSE):
            self._owner.outbox.send(messages.open_failure(self.peer, code, reason))

    def send_eof(self) -> None:
        """Send no more data. What the handler has not given to `read` is not sent."""
        if self._call(Call.SEND_EOF):
            self._owner.outbox.send(messages.short(Packet.EOF, self.peer))

    def close(self) -> None:
        """End the channel at once, in any state but OFFERED. Received data is dropped from now on."""
        if self._call(Call.CLOSE) and self.state is ChannelState.CLOSING:
            self._send_close()

    def ready(self) -> None:
        """The client has bytes to send: `read` is called when the channel's turn comes and its window has room."""
        self.wants = True
        self._owner.outbox.schedule(self)

    def take(self, count: int) -> None:
        """The client took `count` received bytes: the peer may send as many others, sooner or later."""
        if (state := self.state) is ChannelState.OPEN or state is ChannelState.EOF_SENT:
            credit = self.window.take(count, self._owner.now)
            if credit:
                self._owner.outbox.adjust(self, credit)

    # --- calls of the mux --------------------------------------------------------------------------------------

    def receive(self, kind: Packet, packet: memoryview) -> None:
        """Handle a packet: all but data that needs no check beyond `Mux.receive`'s."""
        after = RECEIVED[self.state].get(kind)
        if after is None:
            self.violate(f"the peer sent {kind.name} for a channel in state {self.state.name}")
            return
        try:
            self._RECEIVERS[kind](self, packet, after)
        except MalformedError as error:
            self.violate(f"the peer sent a malformed {kind.name}: {error}")

    def violate(self, reason: str) -> None:
        """End the channel because of a packet. Where it has ended for the handler, the packet is ignored."""
        match self.state:
            case ChannelState.OPENING:
                self._become(ChannelState.ABANDONED)
                self.handler.open_failed(OpenError.CONNECT_FAILED, reason)
            case ChannelState.OFFERED:
                self.refuse(OpenError.PROHIBITED, reason)
                self.handler.closed(reason)
            case ChannelState.OPEN | ChannelState.EOF_SENT | ChannelState.EOF_RECEIVED | ChannelState.EOF_BOTH:
                self._become(ChannelState.CLOSING)
                self._send_close()
                self.handler.closed(reason)
            case ChannelState.ABANDONED | ChannelState.CLOSING | ChannelState.CLOSED:
                pass
            case _:
                assert_never(self.state)

    def lost(self, reason: str) -> None:
        """End the channel: its link has ended."""
        before = self.state
        self._become(ChannelState.CLOSED)
        if before is ChannelState.OPENING:
            self.handler.open_failed(OpenError.CONNECT_FAILED, reason)
        elif before is not ChannelState.ABANDONED and before is not ChannelState.CLOSING:
            self.handler.closed(reason)

    # -----------------------------------------------------------------------------------------------------------

    def _confirmed(self, packet: memoryview, after: ChannelState) -> None:
        peer, window, packet_max = messages.parse_words(packet, 3)
        self.set_limits(peer, window, min(packet_max, self._owner.send_max))
        self._become(after)
        if after is ChannelState.CLOSING:
            self._send_close()
        elif packet_max < PACKET_MIN:
            self._become(ChannelState.CLOSING)
            self._send_close()
            reason = f"the peer takes {packet_max} bytes in a packet: expected at least {PACKET_MIN}"
            self.handler.open_failed(OpenError.CONNECT_FAILED, reason)
        else:
            self._update_sendable()
            self.handler.opened()

    def _failed(self, packet: memoryview, after: ChannelState) -> None:
        code, reason = messages.parse_open_failure(packet)
        before = self.state
        self._become(after)
        if before is ChannelState.OPENING:
            self.handler.open_failed(code, reason)

    def _adjusted(self, packet: memoryview, after: ChannelState) -> None:
        (count,) = messages.parse_words(packet, 1)
        owner = self._owner
        may_send = after is ChannelState.OPEN or after is ChannelState.EOF_RECEIVED
        ahead = owner.outbox.budget.share(self, owner.now) if may_send else 0
        if not self.widen(count, owner.budget.delay, ahead):
            self.violate(f"the peer adjusted a window by {count}, beyond 2^32 - 1 bytes")
        elif may_send:
            self._update_sendable()

    def _other_data(self, packet: memoryview, after: ChannelState) -> None:
        """Handle data that `Mux.receive` did not pass on. As in OpenSSH, a packet may be larger than we asked for.

        Data after EOF is dropped. So is data that was on its way when we sent CLOSE.
        """
        if after is not ChannelState.CLOSING:
            fields = PacketFields(packet, 5)
            data = fields.string()
            fields.end()
            if self._count(len(data)) and data and (after is ChannelState.OPEN or after is ChannelState.EOF_SENT):
                self.handler.data(data)

    def _extended_data(self, packet: memoryview, after: ChannelState) -> None:
        """Drop extended data, as OpenSSH does for channels without a stderr (channel_input_extended_data).

        It is counted as data that the client took, because the peer's window shrinks by it (RFC 4254 section 5.2).
        """
        if after is not ChannelState.CLOSING and self._count(count := len(messages.parse_extended_data(packet))):
            self.take(count)

    def _count(self, count: int) -> bool:
        """Count received bytes. Return False, and end the channel, if they are too many.

        A peer may exceed its window by a tenth, as with OpenSSH: some count a packet after they have sent it.
        """
        window = self.window
        if count > window.left + window.size // EXCESS:
            self.violate(f"the peer sent {count} bytes beyond a window of {max(0, window.left)}")
            return False
        window.left -= count
        window.held += count
        return True

    def _eof(self, packet: memoryview, after: ChannelState) -> None:
        messages.parse_words(packet, 0)
        is_first = after is not self.state
        self._become(after)
        if is_first and after is not ChannelState.CLOSING:
            self.handler.eof()

    def _request(self, packet: memoryview, after: ChannelState) -> None:
        """Refuse a request: none of RFC 4254 is for a forwarded connection."""
        if messages.parse_wants_reply(packet) and after is not ChannelState.CLOSING:
            self._owner.outbox.send(messages.short(Packet.FAILURE, self.peer))

    def _reply(self, packet: memoryview, after: ChannelState) -> None:
        """Ignore the reply to a request: see `RECEIVED` in `states.py`."""

    def _closed(self, packet: memoryview, after: ChannelState) -> None:
        before = self.state
        if before is not ChannelState.CLOSING:
            self._send_close()
        self._become(after)
        if before is not ChannelState.CLOSING:
            self.handler.closed("")

    def _call(self, call: Call) -> bool:
        """Change the state as the handler asks for. Return False if it stays. Raises RuntimeError for a defect."""
        after = CALLED[self.state].get(call)
        if after is None:
            raise RuntimeError(f"{call.name} for a channel in state {self.state.name}")
        if after is self.state:
            return False
        self._become(after)
        return True

    def _become(self, state: ChannelState) -> None:
        before, self.state = self.state, state
        if before <= ChannelState.OFFERED < state:
            self._owner.answered(self)
        if state is not ChannelState.OPEN and state is not ChannelState.EOF_RECEIVED:
            self.sendable = 0
        if state >= ChannelState.CLOSING:
            self.window.release()
            self._owner.outbox.forget(self)
        if state is ChannelState.CLOSED:
            self._owner.remove(self)
            if before is not ChannelState.OFFERED:
                self.handler.gone()

    def _send_close(self) -> None:
        self._owner.outbox.send(messages.short(Packet.CLOSE, self.peer))

    def _update_sendable(self) -> None:
        self.allow()
        if self.wants:
            self._owner.outbox.schedule(self)

    _RECEIVERS: ClassVar[dict[Packet, Callable[[Channel, memoryview, ChannelState], None]]] = {
        Packet.OPEN_CONFIRMATION: _confirmed,
        Packet.OPEN_FAILURE: _failed,
        Packet.WINDOW_ADJUST: _adjusted,
        Packet.DATA: _other_data,
        Packet.EXTENDED_DATA: _extended_data,
        Packet.EOF: _eof,
        Packet.CLOSE: _closed,
        Packet.REQUEST: _request,
        Packet.SUCCESS: _reply,
        Packet.FAILURE: _reply,
    }
