"""The codecs make and read the same packets as asyncssh's own ciphers, and may take turns with them."""

from __future__ import annotations

import pytest
from asyncssh.encryption import get_encryption
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.ssh.internals.codec_aead import LENGTH, TAG, codec_for, padding
from unit.ciphers import (
    body_of,
    codec_of,
    each_cipher,
    encryptions,
    opened,
    opened_by_asyncssh,
    sealed,
    sealed_by_asyncssh,
)

sequence = st.integers(0, 0xFFFFFFFF)
sizes = st.one_of(st.integers(1, 300), st.integers(1, 256 << 10), st.just(32 << 10), st.just(256 << 10))


@each_cipher
@settings(max_examples=50)
@given(seq=sequence, size=sizes)
def test_asyncssh_opens_what_a_codec_seals(name: str, seq: int, size: int) -> None:
    mine, theirs = encryptions(name)
    body = body_of(codec_of(mine), size)
    assert opened_by_asyncssh(theirs, seq, sealed(codec_of(mine), seq, body)) == body


@each_cipher
@settings(max_examples=50)
@given(seq=sequence, size=sizes)
def test_a_codec_opens_what_asyncssh_seals(name: str, seq: int, size: int) -> None:
    mine, theirs = encryptions(name)
    body = body_of(codec_of(mine), size)
    assert opened(codec_of(mine), seq, sealed_by_asyncssh(theirs, seq, body)) == body


@each_cipher
@settings(max_examples=30)
@given(turns=st.lists(st.booleans(), min_size=2, max_size=12))
def test_codec_and_asyncssh_take_turns_on_one_key(name: str, turns: list[bool]) -> None:
    sender, receiver = encryptions(name)
    seal, open_ = codec_of(sender), codec_of(receiver)
    for seq, ours in enumerate(turns):
        body = body_of(seal, 40 + seq)
        frame = sealed(seal, seq, body) if ours else sealed_by_asyncssh(sender, seq, body)
        # The other side takes the turns the other way round.
        assert (opened_by_asyncssh(receiver, seq, frame) if ours else opened(open_, seq, frame)) == body


@each_cipher
def test_a_packet_opened_without_advancing_can_be_opened_by_asyncssh(name: str) -> None:
    sender, receiver = encryptions(name)
    frame = sealed_by_asyncssh(sender, 7, body := body_of(codec_of(sender), 100))
    room = bytearray(len(body))
    codec = codec_of(receiver)
    codec.begin(7)
    assert codec.open(7, memoryview(frame), 0, memoryview(room))
    assert opened_by_asyncssh(receiver, 7, frame) == body == bytes(room)


@each_cipher
@settings(max_examples=50)
@given(data=st.data())
def test_a_changed_byte_is_noticed(name: str, data: st.DataObject) -> None:
    mine, theirs = encryptions(name)
    codec = codec_of(mine)
    frame = bytearray(sealed_by_asyncssh(theirs, 3, body_of(codec, data.draw(st.integers(1, 2000)))))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    room = memoryview(bytearray(len(frame) - LENGTH - TAG))
    codec.begin(3)
    assert not codec.open(3, memoryview(frame), 0, room)


@each_cipher
def test_a_wrong_sequence_number_or_nonce_is_noticed(name: str) -> None:
    mine, theirs = encryptions(name)
    codec = codec_of(mine)
    frame = sealed_by_asyncssh(theirs, 3, body := body_of(codec, 50))
    codec.begin(3)
    assert not codec.open(4, memoryview(frame), 0, memoryview(bytearray(len(body))))


@pytest.mark.parametrize("size", range(64))
@each_cipher
def test_padding_is_at_least_four_bytes_and_fills_the_block(name: str, size: int) -> None:
    codec = codec_of(encryptions(name)[0])
    assert 4 <= padding(codec, size) < 4 + codec.block
    assert (1 + size + padding(codec, size)) % codec.block == 0


def test_other_ciphers_have_no_codec() -> None:
    assert codec_for(None) is None
    assert codec_for(get_encryption(b"aes128-ctr", bytes(16), bytes(16), b"hmac-sha2-256", bytes(32))) is None
