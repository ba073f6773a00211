"""What an SSH connection negotiated. asyncssh reports the cipher; the rest is derived from the offers of both sides."""

from __future__ import annotations

import asyncssh

from reconciler.ssh.internals.kex_messages import offers

# The markers of RFC 8308 and of OpenSSH's strict kex are in the list of algorithms, and are not algorithms.
_MARKERS = ("ext-info-", "kex-strict-")
# The order of the lists; ciphers and MACs have one for each direction.
_NEGOTIATED = ("key exchange", "host key", "encryption", "encryption", "MAC", "MAC")


def cipher(connection: asyncssh.SSHClientConnection) -> str:
    """The cipher of the sending direction, "" if it is unknown."""
    return str(connection.get_extra_info("send_cipher") or "")


def kex(connection: asyncssh.SSHClientConnection) -> str:
    """The key exchange method: the first of the client's that the server offers too (RFC 4253 section 7.1)."""
    offered = offers(connection)
    if offered is None:
        return ""
    (ours, *_), (theirs, *_) = offered
    return next((name for name in ours if name in theirs and not name.startswith(_MARKERS)), "")


def nothing_common(connection: asyncssh.SSHClientConnection) -> tuple[str, list[str]] | None:
    """The kind of algorithm with no common name (asyncssh's word for it), and the server's offer; None if all match.

    The failure needs this: a server that sees the mismatch before asyncssh does may close the connection silently.
    """
    offered = offers(connection)
    if offered is None:
        return None
    cipher_needs_mac = True
    for kind, ours, theirs in zip(_NEGOTIATED, *offered, strict=False):
        common = [name for name in ours if name in theirs]
        if kind == "encryption":
            cipher_needs_mac = not common or not common[0].startswith(("aes128-gcm", "aes256-gcm", "chacha20"))
        if not common and (kind != "MAC" or cipher_needs_mac):
            return kind, [name for name in theirs if not name.startswith(_MARKERS)]
    return None


def terrapin(connection: asyncssh.SSHClientConnection) -> tuple[str, str] | None:
    """The field of `algorithms` and the name of a negotiated algorithm that needs strict key exchange and lacks it.

    None if there is no such algorithm.

    With ChaCha20, or CBC and an encrypt-then-MAC, an attacker in between can drop the first packets after the key
    exchange unnoticed, unless both sides do strict key exchange (CVE-2023-48795).
    """
    offered = offers(connection)
    if offered is None or "kex-strict-s-v00@openssh.com" in offered[1][0]:
        return None  # this side always offers it
    for direction in ("send", "recv"):
        cipher, mac = (str(connection.get_extra_info(f"{direction}_{kind}")) for kind in ("cipher", "mac"))
        if cipher.startswith("chacha20-poly1305"):
            return "cipher", cipher
        if cipher.endswith("-cbc") and "-etm@" in mac:
            return "mac", mac
    return None
