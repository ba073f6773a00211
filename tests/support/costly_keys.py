"""Private keys that are expensive to decode: large RSA keys, and keys encrypted with many rounds."""

from __future__ import annotations

import base64
import os

import asyncssh
from asyncssh.packet import MPInt, String, UInt32

_MAGIC = b"openssh-key-v1\0"
_EXPONENT = 65537


def rsa_key(first: int, second: int) -> bytes:
    """Return an RSA key of the Mersenne primes 2^first - 1 and 2^second - 1, in OpenSSH format."""
    p, q = 2**first - 1, 2**second - 1
    n, d = p * q, pow(_EXPONENT, -1, (p - 1) * (q - 1))
    check = os.urandom(4)
    private = check + check + String("ssh-rsa")
    private += b"".join(map(MPInt, (n, _EXPONENT, d, pow(q, -1, p), p, q))) + String("")
    private += bytes(range(1, 1 + -len(private) % 8))
    return _armoured("none", "none", b"", String("ssh-rsa") + MPInt(_EXPONENT) + MPInt(n), private)


def bcrypt_key(rounds: int) -> bytes:
    """Return a key in OpenSSH format with this number of bcrypt rounds."""
    return _armoured("aes256-ctr", "bcrypt", String(os.urandom(16)) + UInt32(rounds), b"", os.urandom(64))


def pkcs8_key(rounds: int) -> bytes:
    """Return a key in PKCS #8 format that claims this number of PBKDF2 rounds."""
    few = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key("pkcs8-der", passphrase="secret")
    count = b"\x02\x02\x08\x00"  # the DER integer 2048, asyncssh's number of rounds
    assert few.count(count) == 1
    grown = b"\x02\x04" + rounds.to_bytes(4)
    before, after = few.split(count)
    return _lengthened(before, len(grown) - len(count)) + grown + after


def _lengthened(head: bytes, by: int) -> bytes:
    """Add `by` to the lengths of the DER sequences that are still open at the end of `head`."""
    made = bytearray(head)
    at = 0
    while at < len(made):
        tag, length = made[at], made[at + 1]
        size_of_length = length & 0x7F if length & 0x80 else 0
        start = at + 2 + size_of_length
        if size_of_length:
            length = int.from_bytes(made[at + 2 : start])
        if start + length > len(made):  # still open
            if size_of_length:
                made[at + 2 : start] = (length + by).to_bytes(size_of_length)
            else:
                made[at + 1] = length + by
            at = start
        else:
            at = start + length
        assert tag
    return bytes(made)


def _armoured(cipher: str, derivation: str, options: bytes, public: bytes, private: bytes) -> bytes:
    blob = _MAGIC + String(cipher) + String(derivation) + String(options) + UInt32(1) + String(public) + String(private)
    text = base64.encodebytes(blob)
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + text + b"-----END OPENSSH PRIVATE KEY-----\n"
