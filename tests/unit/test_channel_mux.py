"""The channels of one link: numbers, limits, dispatch, and packets of a hostile peer."""

from __future__ import annotations

import random
import sys
from struct import pack

import pytest

from reconciler.ssh.channels import messages, mux
from reconciler.ssh.channels.channel import EXCESS
from reconciler.ssh.channels.messages import HEAD, DirectTcp, Forward, ForwardedUnix, OpenError, Packet
from reconciler.ssh.channels.mux import LimitError, Limits, LinkViolationError, Mux, Refusal
from reconciler.ssh.channels.numbers import LATE_FOR_EACH, LATE_MAX, RESTING
from reconciler.ssh.channels.send_side import PACKET_MAX, PACKET_MIN
from reconciler.ssh.channels.states import ChannelState
from reconciler.ssh.channels.window import WindowBudget
from unit.channel_ends import PEER, WEB, WINDOW, End, Pair, Recorder, data, extended_data, packet_of, request
from unit.test_growth import assert_linear

FAILURE = int(OpenError.CONNECT_FAILED)
P = Packet


def ends_alone(end: End, handler: Recorder, neighbour: Recorder) -> str:
    """Check that one channel was closed and another serves on. Return the reason."""
    assert handler.channel.state is ChannelState.CLOSING
    assert handler.events[-1] == "closed"
    assert end.packets() == [messages.short(P.CLOSE, PEER)]
    end.receive(data(neighbour.channel.number, b"still here"))
    assert neighbour.events == ["data"]
    return handler.reason


# --- data -------------------------------------------------------------------------------------------------------


def test_data_passes_both_ways_and_half_close_works() -> None:
    pair = Pair()
    client = pair.left.open()
    pair.settle()
    server = pair.right.handlers[0]
    client.write(b"request")
    client.ends = True
    pair.settle()
    assert (bytes(server.received), server.events) == (b"request", ["data", "eof"])
    server.write(b"answer")
    server.ends = True
    pair.settle()
    assert (bytes(client.received), client.events) == (b"answer", ["opened", "data", "eof"])
    client.channel.close()
    pair.settle()
    assert server.events[-1] == "closed"
    assert server.reason == ""
    assert (len(pair.left.mux), len(pair.right.mux)) == (0, 0)


class Uploads:
    """A peer that takes all data at once, beside a small packet each time, and adjusts after each 96 KiB."""

    def __init__(self) -> None:
        self.end = End()
        self.end.mux.now = 10.0
        self.bulk, self.small = self.end.opened(window=2 << 20), self.end.opened()
        self._taken = 0

    def exchange(self) -> int:
        """Return how many bytes of bulk data the peer got."""
        self.bulk.unsent = bytearray(4 << 20)
        self.bulk.channel.ready()
        sent = sum(len(packet) - HEAD for packet in self.end.packets())
        self._taken += sent
        self.small.write(b"x")
        self.end.packets()
        while self._taken >= (part := 96 << 10):
            self.end.receive(pack(">BII", P.WINDOW_ADJUST, self.bulk.channel.number, part))
            self._taken -= part
        return sent

    def shrink(self) -> None:
        """Make the window smaller, by not adjusting it for as many bytes."""
        self._taken -= (2 << 20) - (256 << 10)


def test_a_channel_goes_on_after_its_peer_has_made_its_window_smaller() -> None:
    peer = Uploads()
    assert all(peer.exchange() for _ in range(100))
    peer.shrink()
    while peer.exchange():
        pass
    peer.end.mux.go_on()
    assert not peer.exchange(), "the peer may be slow"
    peer.end.mux.now += 1.5
    peer.end.mux.go_on()
    assert all(peer.exchange() for _ in range(100))


def test_a_channel_does_not_go_on_after_its_eof() -> None:
    peer = Uploads()
    assert all(peer.exchange() for _ in range(100))
    peer.bulk.channel.send_eof()
    peer.end.packets()
    peer.end.mux.now += 1.5
    peer.end.mux.go_on()
    assert peer.end.packets() == []


def test_more_than_the_window_waits_for_adjustments() -> None:
    pair = Pair()
    client = pair.left.open()
    pair.settle()
    server = pair.right.handlers[0]
    server.slow = True
    content = bytes(range(256)) * 40_000
    client.write(content)
    pair.settle()
    assert len(server.received) == server.channel.window.size
    while len(server.received) < len(content):
        server.take(100_000)
        pair.settle()
    assert bytes(server.received) == content


def test_a_packet_holds_no_more_than_the_peer_takes() -> None:
    end = End()
    handler = end.opened(window=WINDOW, packet_max=PACKET_MIN)
    handler.write(bytes(3 * PACKET_MIN + 1))
    assert [len(packet) - 9 for packet in end.packets()] == [PACKET_MIN] * 3 + [1]


def test_a_link_may_send_smaller_packets_than_its_peer_says() -> None:
    end = End(send_max=PACKET_MAX - 1)
    handler = end.opened()
    handler.write(bytes(PACKET_MAX))
    assert [len(packet) - 9 for packet in end.packets()] == [PACKET_MAX - 1, 1]


def test_a_client_with_much_data_is_read_for_several_packets_at_once() -> None:
    end = End()
    handler = end.opened(window=8 * PACKET_MAX)
    content = random.Random(1).randbytes(5 * PACKET_MAX + 10)
    handler.write(content)
    rooms = [memoryview(bytearray(HEAD + PACKET_MAX)) for _ in range(3)]
    counts, sent = list[int](), b""
    while lengths := end.mux.outbox.write_packets(rooms):
        counts.append(len(lengths))
        sent += b"".join(bytes(room[HEAD:length]) for room, length in zip(rooms, lengths, strict=False))
    assert counts == [1, 3, 2]
    assert sent == content


def test_a_channel_is_read_for_no_more_packets_than_its_window_permits() -> None:
    end = End()
    handler = end.opened(window=3 * PACKET_MAX + 100)
    handler.write(bytes(8 * PACKET_MAX))
    assert [len(packet) - HEAD for packet in end.packets()] == [PACKET_MAX, PACKET_MAX, PACKET_MAX, 100]


def test_the_budget_knows_how_many_channels_there_are() -> None:
    end = End(budget=(budget := WindowBudget()))
    first, _second = end.opened(), end.opened()
    assert budget.channels == 2
    first.channel.close()
    end.receive(packet_of(P.CLOSE, first.channel.number))
    assert budget.channels == 1


def test_one_adjustment_is_sent_for_all_that_was_taken() -> None:
    end = End()
    handler = end.opened(slow=True)
    while handler.channel.window.left:
        end.receive(data(handler.channel.number, bytes(min(PACKET_MAX, handler.channel.window.left))))
    size = handler.channel.window.size
    for _ in range(4):
        handler.take(size // 4)
    assert end.packets() == [messages.window_adjust(PEER, size)]


def test_the_link_is_woken_once_until_it_has_sent_all() -> None:
    end = End()
    first, second = end.opened(), end.opened()
    end.wakes = 0
    first.write(b"a")
    second.write(b"b")
    first.channel.send_eof()
    assert end.wakes == 1
    assert end.packets(1) == [messages.short(P.EOF, PEER)]
    second.write(b"c")
    assert end.wakes == 1
    end.packets()
    second.write(b"d")
    assert end.wakes == 2


def test_an_eof_follows_the_last_data_at_once() -> None:
    end = End()
    handler = end.opened()
    handler.ends = True
    handler.write(b"data")
    assert end.kinds() == [P.DATA, P.EOF]


def test_a_channel_without_a_window_is_not_asked_for_data() -> None:
    end = End()
    handler = end.opened(window=0)
    handler.write(b"data")
    assert end.packets() == []
    end.receive(messages.window_adjust(handler.channel.number, 2))
    assert end.packets() == [data(PEER, b"da")]


# --- limits and numbers -----------------------------------------------------------------------------------------


def test_a_number_is_free_only_after_both_sides_closed() -> None:
    end = End(limits=Limits(channels=1))
    handler = end.opened()
    handler.channel.close()
    with pytest.raises(LimitError, match="limit 1"):
        end.open()
    end.receive(packet_of(P.CLOSE, handler.channel.number))
    end.open()


def test_a_free_number_rests_before_it_is_used_again() -> None:
    end = End(first=1000)
    used = []
    for _ in range(3 * RESTING):
        handler = end.opened()
        used.append(handler.channel.number)
        handler.channel.close()
        end.receive(packet_of(P.CLOSE, handler.channel.number))
    assert used == [*range(1000, 1000 + RESTING + 1), *used[: 2 * RESTING - 1]]


def test_unanswered_requests_are_limited_on_both_sides() -> None:
    end = End(limits=Limits(opening=2, offered=2))
    end.answer = end.wait
    end.open()
    mine = end.open()
    with pytest.raises(LimitError, match="limit 2"):
        end.open()
    end.packets()
    for number in range(3):
        end.receive(messages.open_channel(number, WINDOW, PACKET_MAX, WEB))
    assert end.packets() == [messages.open_failure(2, OpenError.RESOURCE_SHORTAGE, "too many channels at once")]
    end.handlers[-1].channel.accept()
    end.receive(messages.open_failure(mine.channel.number, FAILURE, "refused"))
    end.open()
    end.receive(messages.open_channel(3, WINDOW, PACKET_MAX, WEB))
    assert end.kinds() == [P.OPEN_CONFIRMATION, P.OPEN]


def test_no_channel_opens_after_the_end_of_the_link() -> None:
    end = End()
    end.mux.end("the link has gone")
    with pytest.raises(LimitError, match="the link has gone"):
        end.open()
    end.receive(messages.open_channel(3, WINDOW, PACKET_MAX, WEB))
    assert end.packets() == []


# --- requests of the peer ---------------------------------------------------------------------------------------


def test_a_refused_request_gets_its_reason() -> None:
    pair = Pair()
    pair.right.answer = lambda _, what: Refusal(OpenError.PROHIBITED, f"no way to {what}")
    client = pair.left.open(ForwardedUnix("/a"))
    pair.settle()
    assert (client.events, client.reason) == (["open_failed"], "no way to ForwardedUnix(path='/a')")
    assert (len(pair.left.mux), len(pair.right.mux)) == (0, 0)


def test_only_kinds_of_channels_that_are_accepted_are_offered() -> None:
    offered: list[Forward] = []

    def offer(_: object, what: Forward) -> Refusal:
        offered.append(what)
        return Refusal(OpenError.PROHIBITED, "no")

    client = Mux(lambda: None, offer, WindowBudget())
    kinds: tuple[Forward, ...] = (WEB, ForwardedUnix("/a"))
    for number, what in enumerate(kinds):
        client.receive(memoryview(messages.open_channel(number, WINDOW, PACKET_MAX, what)))
    session = pack(">BI7sIII", P.OPEN, 7, b"session", 8, WINDOW, PACKET_MAX)
    client.receive(memoryview(session))
    assert offered == [ForwardedUnix("/a")]
    unknown = "unknown channel type"
    room = memoryview(bytearray(256))
    assert [bytes(room[: sum(client.outbox.write_packets([room]))]) for _ in range(4)] == [
        messages.open_failure(0, OpenError.UNKNOWN_TYPE, unknown),
        messages.open_failure(1, OpenError.PROHIBITED, "no"),
        messages.open_failure(8, OpenError.UNKNOWN_TYPE, unknown),
        b"",
    ]


def test_a_malformed_request_is_refused_if_it_has_a_number() -> None:
    end = End()
    packet = messages.open_channel(5, WINDOW, PACKET_MAX, WEB)
    end.receive(packet + b"?")
    end.receive(packet[:-1])
    assert end.kinds() == [P.OPEN_FAILURE] * 2
    with pytest.raises(LinkViolationError, match="malformed OPEN"):
        end.receive(packet[:10])


def test_a_request_that_takes_tiny_packets_is_refused() -> None:
    end = End()
    end.receive(messages.open_channel(5, WINDOW, PACKET_MIN - 1, WEB))
    assert end.kinds() == [P.OPEN_FAILURE]
    assert len(end.mux) == 0


# --- a hostile peer ---------------------------------------------------------------------------------------------


def test_data_beyond_the_window_ends_its_channel() -> None:
    end = End(budget=WindowBudget(usual=PACKET_MAX, alone=PACKET_MAX))
    handler, neighbour = end.opened(slow=True), end.opened()
    end.receive(data(handler.channel.number, bytes(PACKET_MAX)))
    end.receive(data(handler.channel.number, bytes(PACKET_MAX // EXCESS)))  # as OpenSSH allows
    assert handler.channel.state is ChannelState.OPEN
    end.receive(data(handler.channel.number, b"x"))
    assert ends_alone(end, handler, neighbour) == "the peer sent 1 bytes beyond a window of 0"
    assert len(handler.received) == PACKET_MAX + PACKET_MAX // EXCESS


def test_what_exceeds_the_window_is_missing_in_the_next_adjustment() -> None:
    end = End(budget=WindowBudget(usual=PACKET_MAX, alone=PACKET_MAX))
    handler = end.opened(slow=True)
    end.receive(data(handler.channel.number, bytes(PACKET_MAX)))
    end.receive(data(handler.channel.number, b"more"))
    handler.channel.take(PACKET_MAX)
    [adjustment] = end.packets()
    assert int.from_bytes(adjustment[5:]) == handler.channel.window.left + 4
    assert handler.channel.window.left + handler.channel.window.held == handler.channel.window.size


def test_a_packet_beyond_the_maximum_is_taken() -> None:
    """OpenSSH logs it, and takes it too."""
    end = End()
    handler = end.opened()
    end.receive(data(handler.channel.number, bytes(PACKET_MAX + 1)))
    assert len(handler.received) == PACKET_MAX + 1


def test_a_window_beyond_its_maximum_ends_its_channel() -> None:
    end = End()
    handler, neighbour = end.opened(window=0xFFFFFFF0), end.opened()
    end.receive(messages.window_adjust(handler.channel.number, 15))
    assert handler.channel.state is ChannelState.OPEN
    end.receive(messages.window_adjust(handler.channel.number, 1))
    assert ends_alone(end, handler, neighbour) == "the peer adjusted a window by 1, beyond 2^32 - 1 bytes"


def test_extended_data_is_dropped_and_the_window_given_back() -> None:
    end = End()
    handler = end.opened()
    window = handler.channel.window
    sent = adjusted = 0
    for _ in range(100):
        end.receive(extended_data(handler.channel.number, bytes(PACKET_MAX)))
        sent += PACKET_MAX
        adjusted += sum(int.from_bytes(packet[5:]) for packet in end.packets())
    assert handler.events == []
    assert window.held == 0
    assert sent - adjusted < window.size


def test_extended_data_beyond_the_window_ends_its_channel() -> None:
    end = End(budget=WindowBudget(usual=PACKET_MAX, alone=PACKET_MAX))
    handler, neighbour = end.opened(slow=True), end.opened()
    end.receive(data(handler.channel.number, bytes(PACKET_MAX)))
    end.receive(extended_data(handler.channel.number, bytes(PACKET_MAX // EXCESS + 1)))
    assert "beyond a window" in ends_alone(end, handler, neighbour)


@pytest.mark.parametrize(
    "kind", [P.WINDOW_ADJUST, P.DATA, P.EXTENDED_DATA, P.EOF, P.REQUEST], ids=lambda kind: kind.name
)
def test_a_malformed_packet_ends_its_channel(kind: Packet) -> None:
    end = End()
    handler, neighbour = end.opened(), end.opened()
    packet = packet_of(kind, handler.channel.number)
    end.receive(packet[:-1] if kind is P.REQUEST else packet + b"?")
    assert f"malformed {kind.name}" in ends_alone(end, handler, neighbour)


def test_an_empty_data_packet_is_ignored() -> None:
    end = End()
    handler = end.opened()
    end.receive(data(handler.channel.number, b""))
    assert (handler.events, end.packets()) == ([], [])


def test_a_confirmation_with_tiny_packets_closes_the_channel() -> None:
    end = End()
    handler = end.open()
    end.packets()
    end.receive(messages.open_confirmation(handler.channel.number, PEER, WINDOW, PACKET_MIN - 1))
    assert handler.events == ["open_failed"]
    assert handler.reason == "the peer takes 1023 bytes in a packet: expected at least 1024"
    assert end.packets() == [messages.short(P.CLOSE, PEER)]


def test_a_malformed_confirmation_fails_the_open() -> None:
    end = End()
    handler = end.open()
    end.receive(messages.open_confirmation(handler.channel.number, PEER, WINDOW, PACKET_MAX)[:-1])
    assert handler.events == ["open_failed"]
    assert handler.channel.state is ChannelState.ABANDONED


@pytest.mark.parametrize("kind", [kind for kind in Packet if kind is not P.OPEN], ids=lambda kind: kind.name)
def test_a_packet_for_a_number_that_was_never_used_ends_the_link(kind: Packet) -> None:
    end = End(first=100)
    handler = end.opened()
    for number in (99, handler.channel.number + 1, 0xFFFFFFFF):
        with pytest.raises(LinkViolationError, match=f"sent {kind.name} for channel {number}, which was never opened"):
            end.receive(packet_of(kind, number))
    assert handler.channel.state is ChannelState.OPEN


@pytest.mark.parametrize("packet", [b"", b"\x5e", b"\x5e\x00\x00\x00", b"\x50" + bytes(8), b"\x65" + bytes(8)])
def test_a_packet_that_is_not_of_a_channel_ends_the_link(packet: bytes) -> None:
    end = End()
    end.opened()
    with pytest.raises(LinkViolationError, match="no packet of a channel"):
        end.receive(packet)


@pytest.mark.parametrize("kind", [kind for kind in Packet if kind is not P.OPEN], ids=lambda kind: kind.name)
def test_a_late_packet_for_a_closed_channel_is_ignored(kind: Packet) -> None:
    end = End()
    handler, neighbour = end.opened(), end.opened()
    handler.channel.close()
    end.receive(packet_of(P.CLOSE, handler.channel.number))
    end.packets()
    end.receive(packet_of(kind, handler.channel.number))
    assert (end.packets(), handler.events, neighbour.events) == ([], [], [])


def test_a_flood_of_late_packets_ends_the_link() -> None:
    end = End()
    handler = end.opened()
    handler.channel.close()
    late = packet_of(P.CLOSE, handler.channel.number)
    end.receive(late)
    for _ in range(LATE_MAX + LATE_FOR_EACH):
        end.receive(late)
    with pytest.raises(LinkViolationError, match="channels that are closed"):
        end.receive(late)


def test_a_peer_that_does_not_read_answers_ends_the_link() -> None:
    end = End(limits=Limits(channels=1))
    handler = end.opened()
    for _ in range(mux.CONTROL_SPARE + 4):
        end.receive(request(handler.channel.number))
    with pytest.raises(LinkViolationError, match="does not read"):
        end.receive(request(handler.channel.number))


def test_a_request_that_wants_no_reply_gets_none() -> None:
    end = End()
    handler = end.opened()
    end.receive(request(handler.channel.number, wants_reply=False))
    assert end.packets() == []


def test_thousands_of_channels_may_close_at_once() -> None:
    pair = Pair()
    clients = [pair.left.open() for _ in range(4000)]
    pair.settle()
    for server in pair.right.handlers:
        server.channel.close()
    pair.settle()
    assert {client.events[-1] for client in clients} == {"closed"}
    assert (len(pair.left.mux), pair.left.mux.budget.reserved) == (0, 0)


def test_the_origin_of_a_client_reaches_the_peer() -> None:
    pair = Pair()
    seen: list[Forward] = []

    def offer(_: object, what: Forward) -> Refusal:
        seen.append(what)
        return Refusal(OpenError.CONNECT_FAILED, "")

    pair.right.answer = offer
    pair.left.open(DirectTcp("db", 5432, "192.0.2.1", 40_000))
    pair.settle()
    assert seen == [DirectTcp("db", 5432, "192.0.2.1", 40_000)]


def busy_link(count: int) -> None:
    """Open channels, move data both ways on all of them, let the peer send late packets, and end the link."""
    pair = Pair()
    clients = [pair.left.open() for _ in range(count)]
    pair.settle()
    for client in clients:
        client.write(b"request")
    pair.settle()
    for server in pair.right.handlers:
        server.write(bytes(server.channel.window.size))
    pair.settle()
    for client in clients[: count // 2]:
        client.channel.close()
    pair.settle()
    for client in clients[: count // 2]:
        pair.left.receive(packet_of(P.CLOSE, client.channel.number))
    pair.left.mux.end("the link has gone")


def test_the_work_grows_with_the_number_of_channels() -> None:
    assert_linear(busy_link, 250, "channels")


def test_an_idle_channel_takes_little_memory() -> None:
    """Ten thousand idle clients on one link cost a few megabytes here."""
    end = End()
    handler = end.opened()
    channel = handler.channel
    assert sys.getsizeof(channel) + sys.getsizeof(channel.window) < 400
    assert not hasattr(channel, "__dict__")
    assert not hasattr(channel.window, "__dict__")
