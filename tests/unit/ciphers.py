"""asyncssh's ciphers and the codecs on the same keys, for the tests of the packet path."""

from __future__ import annotations

import os

import pytest
from asyncssh.encryption import Encryption, get_encryption, get_encryption_params
from asyncssh.packet import UInt32

from reconciler.ssh.internals.codec_aead import LENGTH, TAG, Codec, codec_for, padding

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com")
FIRST = 8  # bytes that asyncssh takes first, at least
each_cipher = pytest.mark.parametrize("name", CIPHERS)


def encryptions(name: str) -> tuple[Encryption, Encryption]:
    """Return two of asyncssh's objects with the same key and nonce."""
    algorithm = name.encode()
    key_size, iv_size, *_ = get_encryption_params(algorithm)
    key, iv = os.urandom(key_size), b"\xff" * iv_size  # the next nonce of AES-GCM wraps around
    return get_encryption(algorithm, key, iv), get_encryption(algorithm, key, iv)


def codec_of(encryption: Encryption) -> Codec:
    codec = codec_for(encryption)
    assert codec is not None
    codec.begin(0)
    return codec


def body_of(codec: Codec, size: int) -> bytes:
    pad = padding(codec, size)
    return bytes([pad]) + os.urandom(size + pad)


def sealed(codec: Codec, seq: int, body: bytes) -> bytes:
    frame = bytearray(LENGTH + len(body) + TAG)
    codec.seal(seq, memoryview(body), memoryview(frame))
    return bytes(frame)


def opened(codec: Codec, seq: int, frame: bytes) -> bytes | None:
    body = bytearray(codec.length(seq, memoryview(frame), 0))
    codec.begin(seq)
    if not codec.open(seq, memoryview(frame), 0, memoryview(body)):
        return None
    codec.end(seq + 1)
    return bytes(body)


def sealed_by_asyncssh(encryption: Encryption, seq: int, body: bytes) -> bytes:
    return b"".join(encryption.encrypt_packet(seq, UInt32(len(body)), body))


def opened_by_asyncssh(encryption: Encryption, seq: int, frame: bytes) -> bytes | None:
    first, length = encryption.decrypt_header(seq, frame[:FIRST], LENGTH)
    assert int.from_bytes(length) == len(frame) - LENGTH - TAG
    return encryption.decrypt_packet(seq, first, frame[FIRST:-TAG], LENGTH, frame[-TAG:])
