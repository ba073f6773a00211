"""The contents of OpenSSH certificates (PROTOCOL.certkeys): the certified key, and what it is valid for.

asyncssh's documented API can read and write certificates, and not look into them. It rejects certificates with a
critical option that it does not know; this module reads them, so that a message can name the option.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncssh

from reconciler.ssh.internals.packets import PacketDecodeError, SSHPacket
from reconciler.ssh.internals.seam import Seam

_FOREVER = 2**64 - 1  # the end of a certificate without one
_USER, _SUFFIX = 1, "-cert-v01@openssh.com"
# Fields of the public key inside a certificate, by its type without the suffix.
_KEY_FIELDS = {
    "ssh-rsa": 2,
    "ssh-dss": 4,
    "ssh-ed25519": 1,
    "ssh-ed448": 1,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519": 2,
    "sk-ecdsa-sha2-nistp256": 3,
}
SEAMS = (
    Seam(asyncssh.SSHCertificate, "key"),
    Seam(asyncssh.SSHCertificate, "public_data"),
    Seam(asyncssh.SSHKeyPair, "has_cert"),
    Seam(asyncssh.SSHKeyPair, "public_data"),
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The contents of a certificate. Times are wall-clock seconds; `before` is None without an end.

    key         the certified public key, as it is sent
    critical    the critical options: names and values
    extensions  the names of the extensions
    """

    key: bytes
    for_users: bool
    principals: tuple[str, ...]
    after: int
    before: int | None
    critical: tuple[tuple[str, str], ...]
    extensions: frozenset[str]


def parsed(data: bytes) -> Certificate:
    """Parse an encoded certificate. Raises ValueError."""
    try:
        packet = SSHPacket(data)
        kind = packet.get_string().decode("ascii").removesuffix(_SUFFIX)
        packet.get_string()  # the nonce
        if kind not in _KEY_FIELDS:
            raise ValueError("it is not an OpenSSH certificate")
        own = f"{kind}@openssh.com" if kind.startswith("sk-") else kind
        key = [own.encode("ascii"), *(packet.get_string() for _ in range(_KEY_FIELDS[kind]))]
        packet.get_bytes(8)  # the serial number
        for_users = packet.get_uint32() == _USER
        packet.get_string()  # the identity of the key
        principals = _strings(packet.get_string())
        after, before = (int.from_bytes(packet.get_bytes(8)) for _ in range(2))
        critical, extensions = (_strings(packet.get_string()) for _ in range(2))
    except (PacketDecodeError, UnicodeDecodeError):
        raise ValueError("it cannot be decoded") from None
    return Certificate(
        key=b"".join(len(part).to_bytes(4) + part for part in key),
        for_users=for_users,
        principals=tuple(map(_text, principals)),
        after=after,
        before=before if before < _FOREVER else None,
        critical=tuple((_text(one), _value(value)) for one, value in zip(critical[::2], critical[1::2], strict=False)),
        extensions=frozenset(map(_text, extensions[::2])),
    )


def _strings(data: bytes) -> list[bytes]:
    packet, found = SSHPacket(data), []
    while packet:
        found.append(packet.get_string())
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _value(data: bytes) -> str:
    """The value of an option: a string inside the string, or nothing."""
    return _text(data[4:])


def encoded(certificate: asyncssh.SSHCertificate) -> bytes:
    """Return the certificate as it is sent."""
    return certificate.public_data


def certified_key(certificate: asyncssh.SSHCertificate) -> asyncssh.SSHKey:
    """Return the key that the certificate is for."""
    return certificate.key


def of_pair(pair: asyncssh.SSHKeyPair) -> Certificate | None:
    """Return the certificate of a pair, None for a plain key. Raises ValueError for one that cannot be decoded."""
    return parsed(pair.public_data) if pair.has_cert else None
