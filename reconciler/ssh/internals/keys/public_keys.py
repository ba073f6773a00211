"""The public part of keys. asyncssh's documented API does not have it."""

from __future__ import annotations

import asyncssh
from asyncssh import sk

from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHKey, "public_data"),
    Seam(asyncssh.SSHKey, "sig_algorithms"),
    Seam(asyncssh.SSHKeyPair, "public_data"),
    Seam(sk, "sk_available"),
)


def encoded(key: asyncssh.SSHKey | asyncssh.SSHKeyPair) -> bytes:
    """Return the public part as it is sent (RFC 4253 section 6.6); of a pair with a certificate, the certificate."""
    return key.public_data


def signature_names(key: asyncssh.SSHKey | asyncssh.SSHKeyPair) -> tuple[str, ...]:
    """Return the names of the signatures that the key can make, best first."""
    return tuple(name.decode("ascii") for name in key.sig_algorithms)


def needs_missing_hardware(key: asyncssh.SSHKey) -> bool:
    """Return True if only a FIDO device can sign with the key, and asyncssh cannot access one here."""
    return key.get_algorithm().startswith("sk-") and not sk.sk_available
