"""Limits for the numbers in a private key file that decide how long decoding takes.

An encrypted key states how often its passphrase is hashed: up to 2^32 rounds, which take months and cannot be
interrupted; asyncssh has no limit. OpenSSL needs minutes to check the primes of a large RSA key, during which no other
Python thread runs; `private_keys` skips that check, and the size is limited to what ssh reads.
"""

from __future__ import annotations

import binascii
import contextlib
from collections.abc import Iterator

import asyncssh
from asyncssh import asn1
from asyncssh.asn1 import ASN1DecodeError, der_decode_partial

from reconciler.ssh.internals.packets import PacketDecodeError, SSHPacket
from reconciler.ssh.internals.seam import Seam

BCRYPT_ROUNDS_MAX = 4096  # tens of seconds; the default of ssh-keygen is 16 or 24
HASH_ROUNDS_MAX = 10_000_000  # of PKCS #8; OpenSSL's default is 2048
RSA_BITS_MAX = 16384  # ssh refuses larger ones

SEAMS = (
    Seam(asyncssh.SSHKey, "pyca_key"),
    Seam(asn1, "der_decode_partial", "data"),
    Seam(asn1, "ASN1DecodeError"),
)
_MAGIC = b"openssh-key-v1\0"
_DEEPEST = 8  # depth of the nested PKCS #8 values that hold a count


class CostlyKeyError(ValueError):
    """The key would take too long to decode or to use. The text names the number that is too large."""


def check_before_decoding(content: bytes) -> None:
    """Raise CostlyKeyError for a key that is encrypted with too many rounds."""
    for data in _candidates(content):
        if data.startswith(_MAGIC):
            _check_rounds(_bcrypt_rounds(data), BCRYPT_ROUNDS_MAX)
        else:
            _check_rounds(_hash_rounds(data), HASH_ROUNDS_MAX)


def check_decoded(key: asyncssh.SSHKey) -> None:
    """Raise CostlyKeyError for a key that is too large to sign with."""
    bits = getattr(key.pyca_key, "key_size", 0)
    if bits > RSA_BITS_MAX:
        raise CostlyKeyError(f"it has {bits} bits, at most {RSA_BITS_MAX} are read")


def _check_rounds(rounds: int, most: int) -> None:
    if rounds > most:
        raise CostlyKeyError(f"its passphrase is hashed {rounds} times, at most {most} are computed")


def _candidates(content: bytes) -> Iterator[bytes]:
    """Everything in a key file that may be decoded as a key: the whole file, and each block of base64 in it."""
    yield content
    block: list[bytes] | None = None
    for line in (*content.split(b"\n"), b"-----END"):
        if not line.startswith(b"-----"):
            if block is not None and b":" not in line:  # else it is a header
                block.append(line)
            continue
        if block:
            with contextlib.suppress(ValueError):
                yield binascii.a2b_base64(b"".join(block))
        block = [] if line.startswith(b"-----BEGIN ") else None


def _bcrypt_rounds(data: bytes) -> int:
    try:
        packet = SSHPacket(data[len(_MAGIC) :])
        for _ in range(2):  # the cipher, the key derivation
            packet.get_string()
        options = SSHPacket(packet.get_string())
        options.get_string()  # the salt
        return options.get_uint32()
    except PacketDecodeError:
        return 0


def _hash_rounds(data: bytes) -> int:
    """The largest number in the parameters of an EncryptedPrivateKeyInfo (RFC 5958), 0 for anything else."""
    try:
        value, _ = der_decode_partial(data)
    except (ASN1DecodeError, RecursionError, ValueError):
        return 0
    match value:
        case (parameters, bytes()):
            return _largest(parameters, _DEEPEST)
        case _:
            return 0


def _largest(value: object, depth: int) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, tuple | list) and depth:
        return max((_largest(part, depth - 1) for part in value), default=0)
    return 0
