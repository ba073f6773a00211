"""The writer seals packets that asyncssh opens, in the order of their sequence numbers, several into one write."""

from __future__ import annotations

import os

from asyncssh.encryption import Encryption
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.ssh.internals.codec_aead import LENGTH, TAG, Codec
from reconciler.ssh.internals.packet_writer import PAYLOAD_MAX, SEALED_MAX, PacketWriter, SendBuffer
from unit.ciphers import codec_of, each_cipher, encryptions, opened_by_asyncssh


class Asyncssh:
    """The sending side of asyncssh, and the peer that opens what is written."""

    def __init__(self, name: str, buffer: SendBuffer | None = None) -> None:
        mine, self._peer = encryptions(name)
        self._codec = codec_of(mine)
        self.steady = True
        self.send_seq = 0
        self.bytes_sent = 0
        self.writes: list[bytes] = []
        self.by_asyncssh: list[bytes] = []
        self.writer = PacketWriter(self, lambda view: self.writes.append(bytes(view)), buffer or SendBuffer())

    def send_codec(self) -> Codec | None:
        return self._codec if self.steady else None

    def count_sent(self, body: int) -> int:
        self.send_seq += 1
        self.bytes_sent += body
        return self.send_seq - 1

    def send_packet(self, payload: memoryview) -> None:
        self.by_asyncssh.append(bytes(payload))

    def add(self, payload: bytes) -> None:
        room = self.send_seq % len(self.writer.rooms)
        self.writer.rooms[room][: len(payload)] = payload
        self.writer.add(room, len(payload))

    def opened(self) -> list[bytes]:
        """Return the payloads of all that is written."""
        return payloads(self._peer, self._codec, b"".join(self.writes))


def payloads(peer: Encryption, codec: Codec, stream: bytes) -> list[bytes]:
    found: list[bytes] = []
    while stream:
        length = LENGTH + codec.length(len(found), memoryview(stream), 0) + TAG
        body = opened_by_asyncssh(peer, len(found), stream[:length])
        assert body
        found.append(body[1 : -body[0]])
        stream = stream[length:]
    return found


sizes = st.one_of(st.integers(1, 64), st.integers(1, 40_000), st.just(PAYLOAD_MAX))


@each_cipher
@settings(max_examples=50)
@given(lengths=st.lists(sizes, min_size=1, max_size=8))
def test_packets_of_any_size_are_opened_by_asyncssh_in_order(name: str, lengths: list[int]) -> None:
    side = Asyncssh(name)
    sent = [os.urandom(length) for length in lengths]
    for payload in sent:
        side.add(payload)
    side.writer.flush()
    assert side.opened() == sent
    assert side.send_seq == len(sent)


@each_cipher
def test_several_packets_are_one_write(name: str) -> None:
    side = Asyncssh(name)
    for count in range(5):
        side.add(bytes([93, count]))
    assert side.writes == []
    side.writer.flush()
    side.writer.flush()
    assert len(side.writes) == 1


@each_cipher
def test_a_full_buffer_is_written_at_once(name: str) -> None:
    side = Asyncssh(name)
    while not side.writes:
        side.add(bytes(32 << 10))
    assert SEALED_MAX <= len(side.writes[0]) < SEALED_MAX + (33 << 10)


@each_cipher
def test_outside_of_the_rule_packets_go_through_asyncssh(name: str) -> None:
    side = Asyncssh(name)
    side.steady = False
    side.add(b"payload")
    side.writer.flush()
    assert side.by_asyncssh == [b"payload"]
    assert side.writes == []


@each_cipher
def test_bytes_until_the_next_key_exchange_are_counted_as_asyncssh_counts(name: str) -> None:
    side = Asyncssh(name)
    side.add(bytes(100))
    side.writer.flush()
    assert side.bytes_sent == len(side.writes[0]) - LENGTH - TAG


def test_the_previous_user_of_the_shared_buffer_writes_first() -> None:
    buffer = SendBuffer()
    one, other = (Asyncssh("aes128-gcm@openssh.com", buffer) for _ in range(2))
    one.add(b"of one")
    other.add(b"of the other")
    assert one.opened() == [b"of one"]
    one.writer.flush()
    other.writer.flush()
    assert len(one.writes) == 1
    assert other.opened() == [b"of the other"]
