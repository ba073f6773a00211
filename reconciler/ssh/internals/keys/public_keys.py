"""The public part of keys, and the signatures that they make. asyncssh's documented API has neither."""

from __future__ import annotations

import asyncssh

from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHKey, "public_data"),
    Seam(asyncssh.SSHKey, "sig_algorithms"),
    Seam(asyncssh.SSHKeyPair, "public_data"),
    Seam(asyncssh.SSHKeyPair, "sig_algorithms"),
)
_RSA_SHA512 = b"rsa-sha2-512"


def encoded(key: asyncssh.SSHKey | asyncssh.SSHKeyPair) -> bytes:
    """Return the public part as it is sent (RFC 4253 section 6.6); of a pair with a certificate, the certificate."""
    return key.public_data


def signature_names(key: asyncssh.SSHKey) -> tuple[str, ...]:
    """Return the names of the signatures that the key can make, best first."""
    return tuple(name.decode("ascii") for name in key.sig_algorithms)


def prefer_sha512(pair: asyncssh.SSHKeyPair) -> None:
    """Let an RSA key sign with SHA-512, as ssh does.

    asyncssh prefers SHA-256, which hardened servers refuse without announcing it.
    """
    names = pair.sig_algorithms
    if _RSA_SHA512 in names:
        pair.sig_algorithms = (_RSA_SHA512, *(name for name in names if name != _RSA_SHA512))
