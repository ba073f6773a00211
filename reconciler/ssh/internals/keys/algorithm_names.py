"""The names of the algorithms that asyncssh implements. Its documentation lists them; no public function does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from asyncssh import compression, encryption, kex, mac, public_key

from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(encryption, "get_encryption_algs", ""),
    Seam(kex, "get_kex_algs", ""),
    Seam(mac, "get_mac_algs", ""),
    Seam(public_key, "get_certificate_algs", ""),
    Seam(public_key, "get_public_key_algs", ""),
    Seam(compression, "get_compression_algs", ""),
)

_NAMES: dict[str, Callable[[], list[bytes]]] = {
    "cipher": encryption.get_encryption_algs,
    "kex": lambda: [name for name in kex.get_kex_algs() if not name.startswith(b"gss-")],
    "mac": mac.get_mac_algs,
    "hostKey": lambda: public_key.get_certificate_algs() + public_key.get_public_key_algs(),
    "compression": compression.get_compression_algs,
}


@cache
def supported(kind: str) -> tuple[str, ...]:
    """Every name of a kind: cipher, kex, mac, hostKey or compression."""
    return tuple(name.decode("ascii") for name in _NAMES[kind]())
