"""What an SSH connection agreed on. The cipher is told by asyncssh; the key exchange only both sides' offers."""

from __future__ import annotations

import asyncssh

# RFC 8308 and OpenSSH's strict kex stand in the list of algorithms, and are none.
_MARKERS = ("ext-info-", "kex-strict-")
# The order of the lists; of ciphers and MACs there is one for each direction.
_NEGOTIATED = ("key exchange", "host key", "encryption", "encryption", "MAC", "MAC")


def cipher(connection: asyncssh.SSHClientConnection) -> str:
    """The cipher of what we send, "" where it cannot be known."""
    return str(connection.get_extra_info("send_cipher") or "")


def kex(connection: asyncssh.SSHClientConnection) -> str:
    """The key exchange method: the first of ours that the server offers too (RFC 4253 section 7.1)."""
    hashed = strings(connection.get_hash_prefix())
    if len(hashed) < 4:  # both versions, both offers
        return ""
    ours, theirs = name_lists(hashed[2])[0], name_lists(hashed[3])[0]
    return next((name for name in ours if name in theirs and not name.startswith(_MARKERS)), "")


def nothing_common(connection: asyncssh.SSHClientConnection) -> tuple[str, list[str]] | None:
    """What was negotiated without a common name, in asyncssh's word for it, and what the server offers; None: nothing.

    A server that finds this out first closes the connection, without a word, before asyncssh says it.
    """
    hashed = strings(connection.get_hash_prefix())
    if len(hashed) < 4:
        return None
    cipher_needs_mac = True
    for kind, ours, theirs in zip(_NEGOTIATED, name_lists(hashed[2]), name_lists(hashed[3]), strict=False):
        common = [name for name in ours if name in theirs]
        if kind == "encryption":
            cipher_needs_mac = not common or not common[0].startswith(("aes128-gcm", "aes256-gcm", "chacha20"))
        if not common and (kind != "MAC" or cipher_needs_mac):
            return kind, [name for name in theirs if not name.startswith(_MARKERS)]
    return None


def name_lists(kexinit: bytes) -> list[list[str]]:
    """The name lists of an SSH_MSG_KEXINIT up to the MACs (RFC 4253 section 7.1): after a type and a cookie of 16."""
    return [found.decode("ascii", "replace").split(",") for found in strings(kexinit[17:], len(_NEGOTIATED))]


def strings(data: bytes, most: int = 4) -> list[bytes]:
    """The leading strings of SSH's form: each a length of four bytes, and that many bytes."""
    found: list[bytes] = []
    while len(data) >= 4 and len(found) < most:  # a length
        length = int.from_bytes(data[:4])
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def terrapin(connection: asyncssh.SSHClientConnection) -> tuple[str, str] | None:
    """The field of `algorithms` and its name for what was agreed on without strict key exchange, and needs it.

    With ChaCha20, or CBC and an encrypt-then-MAC, an attacker on the way can drop the first packets after the key
    exchange unnoticed, unless both sides do strict key exchange (CVE-2023-48795).
    """
    offers = strings(connection.get_hash_prefix())
    if len(offers) < 4 or "kex-strict-s-v00@openssh.com" in name_lists(offers[3])[0]:
        return None  # we always offer it ourselves
    for direction in ("send", "recv"):
        cipher, mac = (str(connection.get_extra_info(f"{direction}_{kind}")) for kind in ("cipher", "mac"))
        if cipher.startswith("chacha20-poly1305"):
            return "cipher", cipher
        if cipher.endswith("-cbc") and "-etm@" in mac:
            return "mac", mac
    return None
