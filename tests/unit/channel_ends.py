"""Two ends of an SSH connection without a socket, and handlers that record what they are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import pack

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import HEAD, DirectTcp, Forward, Packet
from reconciler.ssh.channels.mux import Limits, Mux, Offer, Refusal
from reconciler.ssh.channels.send_side import PACKET_MAX
from reconciler.ssh.channels.window import WindowBudget

WEB = DirectTcp("web", 80, "127.0.0.1", 50000)
PEER = 700  # the peer's number of a channel, unlike ours
WINDOW = 1 << 20  # bytes that the peer lets us send


class Recorder(ChannelHandler):
    """A handler: records calls, has bytes to send, and takes received bytes at once unless it is `slow`."""

    def __init__(self, *, slow: bool = False) -> None:
        self.channel: Channel
        self.events: list[str] = []
        self.reason = ""
        self.unsent = bytearray()
        self.ends = False  # EOF follows the unsent bytes
        self.received = bytearray()
        self.untaken = 0
        self.slow = slow

    def opened(self) -> None:
        self.events.append("opened")

    def open_failed(self, code: int, reason: str) -> None:
        self.events.append("open_failed")
        self.reason = reason

    def data(self, data: memoryview) -> None:
        self.events.append("data")
        self.received += data
        self.untaken += len(data)
        if not self.slow:
            self.take(len(data))

    def read(self, space: Sequence[memoryview]) -> int:
        count = 0
        for view in space:
            part = self.unsent[: len(view)]
            view[: len(part)] = part
            del self.unsent[: len(part)]
            count += len(part)
        if self.ends and not self.unsent and not count:
            self.channel.send_eof()
        return count

    def eof(self) -> None:
        self.events.append("eof")

    def closed(self, reason: str) -> None:
        self.events.append("closed")
        self.reason = reason

    def gone(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.unsent += data
        self.channel.ready()

    def take(self, count: int) -> None:
        count = min(count, self.untaken)
        self.untaken -= count
        self.channel.take(count)


class End:
    """A mux with its handlers. The peer may ask for any channel, which `answer` answers: by default it is accepted."""

    def __init__(self, budget: WindowBudget | None = None, limits: Limits | None = None, **options: int) -> None:
        self.wakes = 0
        self.handlers: list[Recorder] = []
        self.answer: Offer = self.accept
        self.mux = Mux(
            self._woken,
            self._offered,
            budget or WindowBudget(),
            limits or Limits(),
            frozenset(Forward.__args__),
            **options,
        )
        self._rooms = [memoryview(bytearray(HEAD + PACKET_MAX)) for _ in range(3)]

    def _woken(self) -> None:
        self.wakes += 1

    def _offered(self, channel: Channel, what: Forward) -> ChannelHandler | Refusal:
        return self.answer(channel, what)

    def open(self, what: Forward = WEB, *, slow: bool = False) -> Recorder:
        handler = Recorder(slow=slow)
        handler.channel = self.mux.open(what, handler)
        self.handlers.append(handler)
        return handler

    def accept(self, channel: Channel, what: Forward) -> ChannelHandler | Refusal:
        handler = self.wait(channel, what)
        channel.accept()
        return handler

    def wait(self, channel: Channel, what: Forward) -> ChannelHandler:
        handler = Recorder()
        handler.channel = channel
        self.handlers.append(handler)
        return handler

    def receive(self, packet: bytes) -> None:
        payload = memoryview(packet)
        if packet[:1] != bytes([Packet.DATA]) or not self.mux.receive_data(payload):
            self.mux.receive(payload)

    def packets(self, limit: int = 1 << 30) -> list[bytes]:
        """Return the packets that the mux has to send."""
        found: list[bytes] = []
        while len(found) < limit and (lengths := self.mux.outbox.write_packets(self._rooms)):
            found += [bytes(room[:length]) for room, length in zip(self._rooms, lengths, strict=False)]
        return found

    def kinds(self) -> list[Packet]:
        return [Packet(packet[0]) for packet in self.packets()]

    def opened(self, window: int = WINDOW, packet_max: int = PACKET_MAX, *, slow: bool = False) -> Recorder:
        """Return the handler of a channel that the peer confirmed. PEER is the peer's number of the channel."""
        handler = self.open(slow=slow)
        self.receive(messages.open_confirmation(handler.channel.number, PEER, window, packet_max))
        self.packets()
        handler.events.clear()
        return handler


class Pair:
    """Two ends, and the packets on their way from each to the other."""

    def __init__(self, left: End | None = None, right: End | None = None) -> None:
        self.left, self.right = left or End(), right or End()
        self.wires: dict[End, deque[bytes]] = {self.left: deque(), self.right: deque()}

    def other(self, end: End) -> End:
        return self.right if end is self.left else self.left

    def move(self, end: End, sent: int = 1 << 30, received: int = 1 << 30) -> None:
        """Send up to `sent` packets of `end`, and receive up to `received` of what it sent."""
        wire = self.wires[end]
        wire.extend(end.packets(sent))
        for _ in range(min(received, len(wire))):
            self.other(end).receive(wire.popleft())

    def settle(self) -> None:
        """Move packets until both ends have nothing to send."""
        while True:
            self.move(self.left)
            self.move(self.right)
            for end in (self.left, self.right):
                self.wires[end].extend(end.packets())
            if not any(self.wires.values()):
                return


def data(number: int, content: bytes) -> bytes:
    return pack(">BII", Packet.DATA, number, len(content)) + content


def extended_data(number: int, content: bytes) -> bytes:
    return pack(">BIII", Packet.EXTENDED_DATA, number, 1, len(content)) + content


def request(number: int, *, wants_reply: bool = True) -> bytes:
    return pack(">BII4sB", Packet.REQUEST, number, 4, b"kind", wants_reply)


def packet_of(kind: Packet, number: int) -> bytes:
    """Return a well-formed packet of each kind for a channel."""
    match kind:
        case Packet.OPEN_CONFIRMATION:
            return messages.open_confirmation(number, PEER, WINDOW, PACKET_MAX)
        case Packet.OPEN_FAILURE:
            return messages.open_failure(number, 2, "refused")
        case Packet.WINDOW_ADJUST:
            return messages.window_adjust(number, 5)
        case Packet.DATA:
            return data(number, b"some data")
        case Packet.EXTENDED_DATA:
            return extended_data(number, b"an error")
        case Packet.REQUEST:
            return request(number)
        case _:
            return messages.short(kind, number)
