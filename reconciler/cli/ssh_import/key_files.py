"""Reads key files: whether ssh could use a key without a prompt, and which certificate belongs to it."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.syntax.config_files import find

ENCRYPTED = "is encrypted"

_MAGIC = b"openssh-key-v1\0"
_CERTIFICATE = b"-cert-v01@openssh.com"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key or certificate file. `content` is empty if it cannot be read."""

    path: str
    is_there: bool
    content: bytes

    @property
    def trouble(self) -> str:
        """Return why ssh could not use this private key without a prompt; "" if it could."""
        if not self.is_there:
            return "does not exist here"
        if b"ENCRYPTED" in self.content or next(_strings(self._private()), b"none") != b"none":
            return ENCRYPTED
        return "needs a security key" if any(part.startswith(b"sk-") for part in self.public()[:1]) else ""

    def public(self) -> tuple[bytes, ...]:
        """Return the parts of the public key, or of the certificate; empty if the file does not contain them."""
        words = self.content.split()
        if len(words) > 1 and not self.content.startswith(b"-----"):
            return tuple(_strings(_decoded(words[1])))
        private = self._private()
        parts = list(_strings(private, count=3))
        if len(parts) < 3:
            return ()
        start = sum(len(part) + 4 for part in parts) + 4  # a number of keys follows the cipher and the KDF
        return tuple(_strings(next(_strings(private[start:]), b"")))

    def certifies(self, key: tuple[bytes, ...]) -> bool:
        """Return True if this is a certificate of the key: type and nonce come before the parts of the key."""
        parts = self.public()
        return len(key) > 1 and parts[:1] == (_certificate_type(key[0]),) and parts[2 : 1 + len(key)] == key[1:]

    def _private(self) -> bytes:
        """Return the decoded content of a private key in OpenSSH's own format, without the magic."""
        lines = [line for line in self.content.split(b"\n") if not line.startswith(b"-----")]
        data = _decoded(b"".join(line.strip() for line in lines)) if b"OPENSSH PRIVATE" in self.content else b""
        return data[len(_MAGIC) :] if data.startswith(_MAGIC) else b""


def key_file(path: str) -> KeyFile:
    found = find(os.path.expanduser(path))  # noqa: PTH111 - Path raises for an unknown user
    return KeyFile(path, found.problem is None, found.data)


def is_socket(path: str) -> bool:
    try:
        return Path(path).is_socket()
    except (OSError, ValueError):
        return False


def _certificate_type(key_type: bytes) -> bytes:
    return key_type.partition(b"@")[0] + _CERTIFICATE


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


def _strings(data: bytes, count: int = 16) -> Iterator[bytes]:
    """Yield the strings of an SSH message: each has its length before it."""
    position = 0
    for _ in range(count):
        length = int.from_bytes(data[position : position + 4], "big")
        if position + 4 + length > len(data) or position + 4 > len(data):
            return
        yield data[position + 4 : position + 4 + length]
        position += 4 + length
