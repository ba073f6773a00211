"""The reader splits any pieces of a stream into packets, and each packet reaches the handler or asyncssh, in order."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from asyncssh.encryption import Encryption
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.ssh.internals.codec_aead import BODY_MAX, LENGTH, Codec, codec_for, padding
from reconciler.ssh.internals.packet_reader import CHECKED, OPENED_MAX, PacketReader
from unit.ciphers import CIPHERS, codec_of, each_cipher, encryptions, opened_by_asyncssh, sealed

DATA, GLOBAL_REQUEST, OWN_CHANNEL, ASYNCSSH_CHANNEL = 94, 80, 1, 2


class Asyncssh:
    """The receiving side of asyncssh: takes whole packets, opens them with its own cipher object, and counts them."""

    def __init__(self, encryption: Encryption) -> None:
        self._encryption: Encryption | None = encryption
        self.transport: object | None = self
        self.is_idle = True
        self.recv_seq = 0
        self.steady = True
        self.waits_after = -1  # the number of a packet that a task handles
        self.got: list[tuple[str, bytes]] = []  # all packets in order: the way they went, and the payload
        self.raw = b""

    def opening_codec(self) -> Codec | None:
        return self.recv_codec() if self.steady and self.is_idle else None

    def recv_codec(self) -> Codec | None:
        return codec_for(self._encryption)

    def set_recv_seq(self, seq: int) -> None:
        self.recv_seq = seq

    def hand_over(self, data: memoryview) -> None:
        if self._encryption is None:
            self.raw += data
            return
        body = opened_by_asyncssh(self._encryption, self.recv_seq, bytes(data))
        if not body:
            self.transport = None
            self.is_idle = False
            return
        self.got.append(("asyncssh", body[1 : -body[0]]))
        self.recv_seq += 1
        self.is_idle = self.recv_seq != self.waits_after

    def refuse_length(self, start: memoryview) -> None:
        self.transport = None

    def receive_data(self, payload: memoryview) -> bool:
        """Take every second packet, as if the others were for `received`."""
        return len(self.got) % 2 == 0 and self.received(DATA, payload)

    def received(self, kind: int, payload: memoryview) -> bool:
        if kind != payload[0] or payload[1] != OWN_CHANNEL:
            return False
        self.got.append(("own", bytes(payload)))
        return True

    def use_other_cipher(self) -> None:
        self._encryption = None


def reader_of(asyncssh: Asyncssh) -> PacketReader:
    return PacketReader(asyncssh, asyncssh.receive_data, asyncssh.received)


def always() -> bool:
    return True


def packets(codec: Codec, payloads: Sequence[bytes]) -> list[bytes]:
    frames = []
    for seq, payload in enumerate(payloads):
        pad = padding(codec, len(payload))
        frames.append(sealed(codec, seq, bytes([pad]) + payload + os.urandom(pad)))
    return frames


def read_in_pieces(reader: PacketReader, stream: bytes, cuts: Sequence[int]) -> bytes:
    """Give the reader the stream in pieces, each after what it left of the one before. Return what it leaves."""
    rest = b""
    plain = memoryview(bytearray(OPENED_MAX + len(stream)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        data = plain[OPENED_MAX:][: len(rest) + end - start]
        data[:] = rest + stream[start:end]
        rest = bytes(data[reader.read(data, plain, always) :])
    return rest


kinds = st.sampled_from(
    [bytes([DATA, OWN_CHANNEL]), bytes([DATA, ASYNCSSH_CHANNEL]), bytes([GLOBAL_REQUEST, OWN_CHANNEL])]
)
sizes = st.one_of(st.integers(1, 40), st.integers(1, 5000), st.just(32 << 10), st.just((256 << 10) - 40))


@each_cipher
@settings(max_examples=50)
@given(shape=st.lists(st.tuples(kinds, sizes), min_size=1, max_size=6), data=st.data())
def test_packets_in_any_pieces_reach_their_receiver_in_order(
    name: str, shape: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    sender, receiver = encryptions(name)
    asyncssh = Asyncssh(receiver)
    payloads = [kind + os.urandom(size) for kind, size in shape]
    frames = packets(codec_of(sender), payloads)
    stream = b"".join(frames)
    ends = [sum(map(len, frames[: count + 1])) for count in range(len(frames))]
    near = st.sampled_from(ends).flatmap(lambda end: st.integers(-20, 20).map(lambda by: end + by))
    places = st.lists(st.one_of(near, st.integers(0, len(stream))), max_size=8)
    cuts = sorted(min(max(cut, 0), len(stream)) for cut in data.draw(places))
    assert read_in_pieces(reader_of(asyncssh), stream, cuts) == b""
    own = bytes([DATA, OWN_CHANNEL])
    # Payloads of the sizes above are far from the greatest one.
    ways = ["own" if one.startswith(own) and len(one) < OPENED_MAX else "asyncssh" for one in payloads]
    assert asyncssh.got == list(zip(ways, payloads, strict=True))


@each_cipher
def test_small_packets_may_be_cut_at_each_byte(name: str) -> None:
    payloads = [bytes([DATA, OWN_CHANNEL, 5]), bytes([GLOBAL_REQUEST, 6])]
    for cut in range(60):
        sender, receiver = encryptions(name)
        asyncssh = Asyncssh(receiver)
        stream = b"".join(packets(codec_of(sender), payloads))
        read_in_pieces(reader_of(asyncssh), stream, [min(cut, len(stream))])
        assert asyncssh.got == [("own", payloads[0]), ("asyncssh", payloads[1])]


@each_cipher
@settings(max_examples=50)
@given(data=st.data())
def test_a_changed_byte_ends_the_connection_before_the_handler_gets_it(name: str, data: st.DataObject) -> None:
    sender, receiver = encryptions(name)
    asyncssh = Asyncssh(receiver)
    frames = packets(codec_of(sender), [bytes([DATA, OWN_CHANNEL]) + os.urandom(100)] * 3)
    changed = bytearray(frames[1])
    # A changed length makes the reader wait for another number of bytes: see the test below.
    changed[data.draw(st.integers(LENGTH, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    stream = frames[0] + changed + frames[2]
    read_in_pieces(reader_of(asyncssh), stream, [])
    assert [way for way, _ in asyncssh.got] == ["own"]
    assert asyncssh.transport is None


@each_cipher
def test_outside_of_the_rule_all_packets_are_asyncsshs(name: str) -> None:
    sender, receiver = encryptions(name)
    asyncssh = Asyncssh(receiver)
    asyncssh.steady = False
    payloads = [bytes([DATA, OWN_CHANNEL, count]) for count in range(5)]
    read_in_pieces(reader_of(asyncssh), b"".join(packets(codec_of(sender), payloads)), [])
    assert asyncssh.got == [("asyncssh", payload) for payload in payloads]


@each_cipher
def test_nothing_is_read_while_asyncssh_handles_a_packet_in_a_task(name: str) -> None:
    sender, receiver = encryptions(name)
    asyncssh = Asyncssh(receiver)
    asyncssh.waits_after = 2
    payloads = [bytes([DATA, OWN_CHANNEL]), bytes([GLOBAL_REQUEST]), bytes([DATA, OWN_CHANNEL, 1])]
    reader = reader_of(asyncssh)
    rest = read_in_pieces(reader, b"".join(packets(codec_of(sender), payloads)), [])
    assert [way for way, _ in asyncssh.got] == ["own", "asyncssh"]
    assert reader.has_packet(memoryview(rest))
    asyncssh.is_idle = True
    assert read_in_pieces(reader, rest, []) == b""
    assert asyncssh.got[2] == ("own", payloads[2])


@each_cipher
def test_it_stops_when_the_time_is_used_up(name: str) -> None:
    sender, receiver = encryptions(name)
    asyncssh = Asyncssh(receiver)
    frames = packets(codec_of(sender), [bytes([DATA, OWN_CHANNEL])] * (3 * CHECKED))
    stream = b"".join(frames)
    reader = reader_of(asyncssh)
    done = reader.read(memoryview(stream), memoryview(bytearray(len(stream))), lambda: len(asyncssh.got) < 2 * CHECKED)
    assert done == sum(map(len, frames[: 2 * CHECKED]))


@pytest.mark.parametrize("name", CIPHERS[:2])  # with ChaCha20 the length is encrypted
def test_a_length_over_the_limit_is_refused_at_once(name: str) -> None:
    asyncssh = Asyncssh(encryptions(name)[0])
    reader = reader_of(asyncssh)
    start = (BODY_MAX + 1).to_bytes(4) + bytes(12)
    assert not reader.has_packet(memoryview(start))
    assert reader.read(memoryview(start), memoryview(bytearray(16)), always) == 0
    assert asyncssh.transport is None


@each_cipher
def test_payloads_of_one_read_stay_valid_together(name: str) -> None:
    sender, receiver = encryptions(name)
    views: list[memoryview] = []
    asyncssh = Asyncssh(receiver)

    def received(_kind: int, payload: memoryview) -> bool:
        views.append(payload)
        return True

    payloads = [bytes([DATA]) + os.urandom(1000) for _ in range(10)]
    reader = PacketReader(asyncssh, lambda payload: received(DATA, payload), received)
    read_in_pieces(reader, b"".join(packets(codec_of(sender), payloads)), [])
    assert [bytes(view) for view in views] == payloads


def test_bytes_of_a_cipher_without_codec_go_to_asyncssh_as_they_came() -> None:
    asyncssh = Asyncssh(encryptions(CIPHERS[0])[0])
    asyncssh.use_other_cipher()
    assert read_in_pieces(reader_of(asyncssh), b"0123456789", [3, 5]) == b""
    assert asyncssh.raw == b"0123456789"
    assert asyncssh.got == []
