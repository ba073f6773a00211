"""The contents of certificates: the certified key, and when it is valid for which use.

asyncssh's documented API can read and write certificates, and not look into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncssh
from asyncssh import public_key
from asyncssh.public_key import CERT_TYPE_USER, SSHOpenSSHCertificate, decode_ssh_certificate

from reconciler.ssh.internals.seam import Seam

_FOREVER = 2**64 - 1  # the end of a certificate without one
SEAMS = (
    Seam(asyncssh.SSHCertificate, "key"),
    Seam(SSHOpenSSHCertificate, "_cert_type"),
    Seam(SSHOpenSSHCertificate, "_valid_after"),
    Seam(SSHOpenSSHCertificate, "_valid_before"),
    Seam(asyncssh.SSHKeyPair, "has_cert"),
    Seam(asyncssh.SSHKeyPair, "public_data"),
    Seam(public_key, "decode_ssh_certificate", "data comment"),
)


@dataclass(frozen=True, slots=True)
class Validity:
    """What an OpenSSH certificate is valid for. Times are wall-clock seconds; `before` is None without an end."""

    for_users: bool
    after: int
    before: int | None


def validity(certificate: asyncssh.SSHCertificate) -> Validity | None:
    """Return the validity of an OpenSSH certificate, None for another kind (X.509)."""
    if not isinstance(certificate, SSHOpenSSHCertificate):
        return None
    before = certificate._valid_before  # noqa: SLF001 - see the module's docstring
    return Validity(
        for_users=certificate._cert_type == CERT_TYPE_USER,  # noqa: SLF001 - as above
        after=certificate._valid_after,  # noqa: SLF001 - as above
        before=before if before < _FOREVER else None,
    )


def certified_key(certificate: asyncssh.SSHCertificate) -> asyncssh.SSHKey:
    """Return the key that the certificate is for."""
    return certificate.key


def is_certified(pair: asyncssh.SSHKeyPair) -> bool:
    """Return True if the pair has a certificate."""
    return pair.has_cert


def of_pair(pair: asyncssh.SSHKeyPair) -> asyncssh.SSHCertificate | None:
    """Return the certificate of a pair, None for a plain key. Raises ValueError for one that cannot be decoded."""
    return decode_ssh_certificate(pair.public_data) if pair.has_cert else None
