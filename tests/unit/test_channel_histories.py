"""Random histories of two ends, and of one end with a hostile peer.

Between honest ends: bytes arrive once and in order, no more is sent than the window allows, no channel is ended for a
violation, numbers are used again only after both sides closed, and in the end all channels are closed. With a hostile
peer: only the channel that a packet names can change, the memory is bounded, and nothing raises but the violation of
the link.
"""

from __future__ import annotations

from struct import pack, unpack_from

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import Forward, OpenError, Packet
from reconciler.ssh.channels.mux import LimitError, Limits, LinkViolationError, Refusal
from reconciler.ssh.channels.send_side import PACKET_MAX
from reconciler.ssh.channels.states import ChannelState
from reconciler.ssh.channels.window import WindowBudget
from unit.channel_ends import PEER, WEB, End, Pair, Recorder, data, extended_data, packet_of

P = Packet
sides = st.booleans()
picks = st.integers(0, 50)
_UNFINISHED = {ChannelState.OPENING, ChannelState.ABANDONED, ChannelState.OPEN, ChannelState.EOF_RECEIVED}
_ROUNDS = 2000  # of taking what has arrived: the smallest window is a thousandth of the largest write
sizes = st.one_of(st.integers(0, 40), st.integers(0, 3 * PACKET_MAX))
counts = st.integers(0, 12)
windows = st.integers(1000, 4 * PACKET_MAX)


class Client(Recorder):
    """A handler that knows what was written to it, and closes when both sides have sent EOF."""

    def __init__(self) -> None:
        super().__init__(slow=True)
        self.written = bytearray()
        self.peer: Client | None = None
        self.left_early = False  # it closed before both sides had sent EOF

    def say(self, content: bytes) -> None:
        self.written += content
        self.write(content)

    @property
    def is_open(self) -> bool:
        return ChannelState.OPEN <= self.channel.state <= ChannelState.EOF_BOTH


class TwoEnds(RuleBasedStateMachine):
    """Two muxes; the wires between them hold packets as long as the history wants."""

    @initialize(windows=st.tuples(windows, windows), most=st.integers(1, 6))
    def connect(self, windows: tuple[int, int], most: int) -> None:
        limits = Limits(channels=most, opening=3, offered=3)
        ends = [End(WindowBudget(usual=window, least=1000, most=1 << 20), limits) for window in windows]
        self.pair = Pair(*ends)
        self.ends = ends
        self.clients: list[Client] = []
        self.offers: list[Client] = []
        self.by_number: dict[tuple[End, int], list[Client]] = {}
        for end in ends:
            end.answer = self._offer

    def _end_of(self, channel: Channel) -> End:
        return next(end for end in self.ends if end.mux is channel._owner)

    def _add(self, client: Client) -> None:
        self.clients.append(client)
        users = self.by_number.setdefault((self._end_of(client.channel), client.channel.number), [])
        assert all(user.channel.state is ChannelState.CLOSED for user in users)
        users.append(client)

    def _offer(self, channel: Channel, what: Forward) -> ChannelHandler | Refusal:
        if isinstance(what, messages.DirectTcp) and what.port == 1:
            return Refusal(OpenError.PROHIBITED, "port 1")
        client = Client()
        client.channel = channel
        self._add(client)
        self.offers.append(client)
        # The two ends of a channel are joined by the peer's number.
        end = self._end_of(channel)
        client.peer = self.by_number[self.pair.other(end), channel.peer][-1]
        client.peer.peer = client
        return client

    def _pick(self, pick: int, clients: list[Client]) -> Client | None:
        return clients[pick % len(clients)] if clients else None

    @rule(side=sides, port=st.sampled_from([1, 80, 80, 80]))
    def open(self, side: bool, port: int) -> None:
        client = Client()
        try:
            channel = self.ends[side].mux.open(messages.DirectTcp("web", port, "a", 1), client)
        except LimitError:
            return
        client.channel = channel
        self._add(client)

    @precondition(lambda self: self.offers)
    @rule(pick=picks, accepts=st.booleans())
    def answer(self, pick: int, accepts: bool) -> None:
        offered = self.offers.pop(pick % len(self.offers))
        if accepts:
            offered.channel.accept()
        else:
            offered.channel.refuse(OpenError.CONNECT_FAILED, "refused")

    @rule(side=sides, sent=counts, received=counts)
    def move(self, side: bool, sent: int, received: int) -> None:
        self.pair.move(self.ends[side], sent, received)

    @rule(pick=picks, size=sizes, seed=st.integers(0, 255))
    def say(self, pick: int, size: int, seed: int) -> None:
        client = self._pick(pick, [client for client in self.clients if client.is_open and not client.ends])
        if client is not None:
            client.say(bytes((seed + at) & 0xFF for at in range(size)))

    @rule(pick=picks)
    def end_of_data(self, pick: int) -> None:
        client = self._pick(pick, [client for client in self.clients if client.is_open])
        if client is not None:
            client.ends = True
            client.channel.ready()

    @rule(pick=picks, size=sizes, seconds=st.sampled_from([0.0, 0.001, 0.5]))
    def take(self, pick: int, size: int, seconds: float) -> None:
        client = self._pick(pick, self.clients)
        if client is not None:
            self._end_of(client.channel).mux.now += seconds
            client.take(size)

    @rule(pick=picks)
    def close(self, pick: int) -> None:
        client = self._pick(pick, self.clients)
        if client is not None and client.channel.state is not ChannelState.OFFERED:
            client.left_early = True
            client.channel.close()

    @invariant()
    def bytes_arrive_once_and_in_order(self) -> None:
        for client in getattr(self, "clients", ()):
            if client.peer is not None:
                assert client.peer.written.startswith(client.received)
            assert client.reason in {"", "refused", "port 1", "too many channels at once"}

    @invariant()
    def windows_hold(self) -> None:
        for client in getattr(self, "clients", ()):
            window = client.channel.window
            assert window.left >= 0
            if client.is_open:
                assert window.left + window.held <= window._reserved
        for end in getattr(self, "ends", ()):
            live = end.mux._channels.values()
            assert end.mux.budget.reserved == sum(channel.window._reserved for channel in live)

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        for _ in range(_ROUNDS):
            self._finish_one_round()
            if not self.offers and not any(client.channel.state in _UNFINISHED for client in self.clients):
                break
        for client in self.clients:
            if client.peer is not None and not client.left_early and not client.peer.left_early:
                assert client.received == client.peer.written
            client.channel.close()
        self.pair.settle()
        assert all(client.channel.state is ChannelState.CLOSED for client in self.clients)
        for end in self.ends:
            assert (len(end.mux), end.mux.budget.reserved) == (0, 0)
            assert (end.mux._opening, end.mux._offered) == (0, 0)

    def _finish_one_round(self) -> None:
        """Accept what is offered, take what has arrived, and end what may be ended."""
        for offered in self.offers:
            offered.channel.accept()
        self.offers.clear()
        for client in self.clients:
            client.ends = True
            client.take(client.untaken)
            client.channel.ready()
        self.pair.settle()


numbers = st.one_of(st.integers(0, 8), st.integers(0, 0xFFFFFFFF))
words = st.one_of(st.integers(0, 40), st.integers(0, 0xFFFFFFFF))
packets: st.SearchStrategy[bytes] = st.one_of(
    st.builds(packet_of, st.sampled_from([kind for kind in Packet if kind is not P.OPEN]), numbers),
    st.builds(data, numbers, st.builds(bytes, st.integers(0, PACKET_MAX + 1))),
    st.builds(extended_data, numbers, st.builds(bytes, st.integers(0, PACKET_MAX + 1))),
    st.builds(messages.window_adjust, numbers, words),
    st.builds(messages.open_confirmation, numbers, words, words, words),
    st.builds(messages.open_channel, numbers, words, words, st.just(WEB)),
    st.builds(lambda kind, rest: pack(">B", kind) + rest, st.integers(89, 101), st.binary(max_size=40)),
    st.builds(
        lambda kind, number, rest: pack(">BI", kind, number) + rest,
        st.integers(90, 100),
        numbers,
        st.binary(max_size=40),
    ),
    st.binary(max_size=20),
)


class HostilePeer(RuleBasedStateMachine):
    """One mux with a peer that sends anything. One channel, the neighbour, belongs to an honest part of the peer."""

    @initialize()
    def connect(self) -> None:
        self.end = End(WindowBudget(usual=2 * PACKET_MAX), Limits(channels=8, opening=4, offered=3))
        self.end.answer = self.end.wait
        self.neighbour = self.end.opened()
        self.sent = bytearray()
        self.is_live = True

    @precondition(lambda self: self.is_live)
    @rule(packet=packets)
    def attack(self, packet: bytes) -> None:
        number = unpack_from(">I", packet, 1)[0] if len(packet) >= 5 and packet[0] != P.OPEN else None
        if number == self.neighbour.channel.number:
            return
        before = self._states(except_number=number)
        try:
            self.end.receive(packet)
        except LinkViolationError as error:
            self.is_live = False
            self.end.mux.end(str(error))
            assert len(self.end.mux) == 0
            assert self.end.mux.budget.reserved == 0
            return
        after = self._states(except_number=number)
        assert {channel: after[channel] for channel in before} == before

    def _states(self, except_number: int | None) -> dict[Channel, tuple[ChannelState, int, int]]:
        return {
            handler.channel: (handler.channel.state, handler.channel.sendable, handler.channel.window.left)
            for handler in self.end.handlers
            if handler.channel.number != except_number
        }

    @precondition(lambda self: self.is_live)
    @rule(size=st.integers(1, 500))
    def neighbour_receives(self, size: int) -> None:
        content = bytes(size)
        self.sent += content
        self.end.receive(data(self.neighbour.channel.number, content))
        assert self.neighbour.received == self.sent

    @precondition(lambda self: self.is_live)
    @rule(size=st.integers(1, 500))
    def neighbour_sends(self, size: int) -> None:
        if self.neighbour.channel.sendable >= size:
            self.neighbour.write(bytes(size))
            assert any(packet[:5] == pack(">BI", P.DATA, PEER) for packet in self.end.packets())

    @precondition(lambda self: self.is_live)
    @rule(slow=st.booleans())
    def open(self, slow: bool) -> None:
        try:
            self.end.open(slow=slow)
        except LimitError:
            return

    @precondition(lambda self: self.is_live)
    @rule(pick=picks, what=st.sampled_from(["accept", "refuse", "eof", "close", "write"]))
    def call(self, pick: int, what: str) -> None:
        handler = self.end.handlers[pick % len(self.end.handlers)]
        channel = handler.channel
        if handler is self.neighbour:
            return
        if channel.state is ChannelState.OFFERED:
            if what == "accept":
                channel.accept()
            elif what == "refuse":
                channel.refuse(OpenError.PROHIBITED, "no")
        elif what == "close":
            channel.close()
        elif channel.state in {ChannelState.OPEN, ChannelState.EOF_RECEIVED}:
            if what == "eof":
                channel.send_eof()
            else:
                handler.write(b"data" * 1000)

    @rule(limit=st.integers(0, 20))
    def send(self, limit: int) -> None:
        if hasattr(self, "end"):
            self.end.packets(limit)

    @invariant()
    def memory_is_bounded(self) -> None:
        if not hasattr(self, "end"):
            return
        mux = self.end.mux
        assert len(mux) <= 8
        assert len(mux.outbox._adjustments) <= 8
        assert mux._opening <= 4
        assert mux._offered <= 3
        assert mux.budget.reserved == sum(channel.window._reserved for channel in mux._channels.values())
        for handler in self.end.handlers:
            assert handler.untaken <= 2 * PACKET_MAX
            told = [event for event in handler.events if event in {"open_failed", "closed"}]
            assert len(told) <= 1
            if told:
                assert handler.events[-1] == told[0]

    @invariant()
    def neighbour_lives(self) -> None:
        if hasattr(self, "end") and self.is_live:
            assert self.neighbour.channel.state is ChannelState.OPEN
            assert set(self.neighbour.events) <= {"data"}


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(deadline=None, stateful_step_count=60, max_examples=60)
TestHostilePeer = HostilePeer.TestCase
TestHostilePeer.settings = settings(deadline=None, stateful_step_count=60, max_examples=60)
