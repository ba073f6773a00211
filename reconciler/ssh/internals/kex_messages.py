"""The messages of a connection's first key exchange: the server's version, and the algorithms that both sides offered.

asyncssh reports the negotiated ciphers only. The hash of a key exchange covers these messages (RFC 4253 section 8), so
asyncssh keeps them.
"""

from __future__ import annotations

import asyncssh

from reconciler.ssh.internals.seam import Seam

NameLists = list[list[str]]  # of an SSH_MSG_KEXINIT: key exchange, host key, two ciphers, two MACs, two compressions
_LISTS = 8
SEAMS = (Seam(asyncssh.SSHClientConnection, "get_hash_prefix", "self"),)


def server_version(connection: asyncssh.SSHClientConnection) -> str:
    """Return the server's SSH version, "" if it has not arrived.

    `get_extra_info` is not used: behind a jump host it returns the version of the jump host until there is one.
    """
    return _strings(connection.get_hash_prefix(), 2)[1].decode("ascii", "replace")


def offers(connection: asyncssh.SSHClientConnection) -> tuple[NameLists, NameLists] | None:
    """Return the algorithms that this side and the server offered, None before both are known."""
    _, _, ours, theirs = _strings(connection.get_hash_prefix(), 4)
    return (_name_lists(ours), _name_lists(theirs)) if ours and theirs else None


def _name_lists(kexinit: bytes) -> NameLists:
    """Decode the lists of an SSH_MSG_KEXINIT (RFC 4253 section 7.1), which follow a type and a cookie of 16 bytes."""
    return [found.decode("ascii", "replace").split(",") for found in _strings(kexinit[17:], _LISTS)]


def _strings(data: bytes, most: int) -> list[bytes]:
    """Return the leading SSH strings (RFC 4251 section 5): each a length of four bytes, and that many bytes."""
    found: list[bytes] = []
    while len(data) >= 4 and len(found) < most:
        length = int.from_bytes(data[:4])
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found
