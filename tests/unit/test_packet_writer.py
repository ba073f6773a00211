"""The writer seals packets that asyncssh opens, in the order of their sequence numbers, several into one write."""

from __future__ import annotations

import os

import pytest
from asyncssh.encryption import Encryption
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.ssh.internals.codec_aead import LENGTH, TAG, Codec
from reconciler.ssh.internals.packet_writer import (
    HEAD_ROOM,
    PADDING_ROOM,
    PAYLOAD_MAX,
    SEALED_MAX,
    PacketWriter,
    SendBuffer,
)
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

    def count_sent(self, body: int) -> None:
        self.send_seq += 1
        self.bytes_sent += body

    def send_packet(self, head: bytes, payload: memoryview) -> None:
        self.by_asyncssh.append(head + payload)

    def opened(self) -> list[bytes]:
        """Return the payloads of all that is written."""
        return payloads(self._peer, self._codec, b"".join(self.writes))


def payloads(peer: Encryption, codec: Codec, stream: bytes) -> list[bytes]:
    found: list[bytes] = []
    while stream:
        length = LENGTH + codec.length(len(found), memoryview(stream)[:LENGTH]) + TAG
        body = opened_by_asyncssh(peer, len(found), stream[:length])
        assert body
        found.append(body[1 : -body[0]])
        stream = stream[length:]
    return found


sizes = st.one_of(st.integers(0, 64), st.integers(0, 40_000), st.just(PAYLOAD_MAX - 9))


@each_cipher
@settings(max_examples=50)
@given(lengths=st.lists(sizes, min_size=1, max_size=8))
def test_packets_of_any_size_are_opened_by_asyncssh_in_order(name: str, lengths: list[int]) -> None:
    side = Asyncssh(name)
    sent = [(os.urandom(9), os.urandom(length)) for length in lengths]
    for head, payload in sent:
        side.writer.add(head, payload)
    side.writer.flush()
    assert side.opened() == [head + payload for head, payload in sent]
    assert side.send_seq == len(sent)


@each_cipher
@settings(max_examples=50)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_a_read_is_sealed_in_pieces_where_it_stands(name: str, lengths: list[int]) -> None:
    side = Asyncssh(name)
    head, data = b"123456789", os.urandom(sum(lengths))
    start = HEAD_ROOM + len(head)
    memory = memoryview(bytearray(start) + data + bytes(PADDING_ROOM))
    sent: list[bytes] = []
    for length in lengths:
        sent.append(head + memory[start : start + length])
        side.writer.add_in_place(head, memory, start, start + length)
        start += length
    side.writer.flush()
    assert side.opened() == sent
    assert b"".join(payload[9:] for payload in sent) == data


@each_cipher
@settings(max_examples=50)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_a_payload_is_sealed_where_it_was_written(name: str, lengths: list[int]) -> None:
    side = Asyncssh(name)
    sent = [os.urandom(length) for length in lengths]
    for payload in sent:
        side.writer.room[: len(payload)] = payload
        side.writer.add_written(len(payload))
    side.writer.flush()
    assert side.opened() == sent


@each_cipher
def test_several_packets_are_one_write(name: str) -> None:
    side = Asyncssh(name)
    for count in range(5):
        side.writer.add(bytes([93, count]))
    assert side.writes == []
    side.writer.flush()
    side.writer.flush()
    assert len(side.writes) == 1


@each_cipher
def test_a_full_buffer_is_written_at_once(name: str) -> None:
    side = Asyncssh(name)
    while not side.writes:
        side.writer.add(b"\x5e", bytes(32 << 10))
    assert SEALED_MAX <= len(side.writes[0]) < SEALED_MAX + (33 << 10)


@each_cipher
def test_outside_of_the_rule_packets_go_through_asyncssh(name: str) -> None:
    side = Asyncssh(name)
    side.steady = False
    side.writer.add(b"head", b"payload")
    side.writer.room[:11] = b"headpayload"
    side.writer.add_written(11)
    side.writer.add_in_place(b"head", memoryview(bytearray(b"-----payload" + bytes(PADDING_ROOM))), 5, 12)
    side.writer.flush()
    assert side.by_asyncssh == [b"headpayload"] * 3
    assert side.writes == []


@each_cipher
def test_bytes_until_the_next_key_exchange_are_counted_as_asyncssh_counts(name: str) -> None:
    side = Asyncssh(name)
    side.writer.add(b"\x5e", bytes(100))
    side.writer.flush()
    assert side.bytes_sent == len(side.writes[0]) - LENGTH - TAG


def test_a_writer_that_takes_the_shared_buffer_lets_the_one_before_write_first() -> None:
    buffer = SendBuffer()
    one, other = (Asyncssh("aes128-gcm@openssh.com", buffer) for _ in range(2))
    one.writer.add(b"of one")
    other.writer.add(b"of the other")
    assert one.opened() == [b"of one"]
    one.writer.flush()
    other.writer.flush()
    assert len(one.writes) == 1
    assert other.opened() == [b"of the other"]


def test_a_payload_over_the_limit_is_an_error_before_anything_is_sealed() -> None:
    side = Asyncssh("aes128-gcm@openssh.com")
    with pytest.raises(ValueError, match="different"):
        side.writer.add(b"\x5e", bytes(PAYLOAD_MAX + PADDING_ROOM + 1))
    assert side.send_seq == 0
