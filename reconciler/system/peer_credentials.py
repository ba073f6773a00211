"""Reads the credentials of the process at the other end of a unix socket, as the kernel recorded them.

A client gets the server's credentials at the time of listen(), a server gets the client's at the time of connect().
Linux: SO_PEERCRED (unix(7)). macOS: LOCAL_PEERCRED (sys/un.h), which has no process id.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

_UCRED = struct.Struct("=iII")  # pid, uid, gid
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1
_XUCRED = struct.Struct("=IIh")  # version, uid, number of groups; the groups follow
_XUCRED_SIZE = 76


def peer_uid(sock: Any) -> int | None:
    """Return the peer's effective uid, or None if the system does not say."""
    if sock is None:
        return None
    try:
        if hasattr(socket, "SO_PEERCRED"):
            return _linux(sock)[1]
        return int(_XUCRED.unpack_from(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE))[1])
    except (OSError, struct.error):
        return None


def peer_pid(sock: Any) -> int | None:
    """Return the peer's process id, or None if the system does not say. 0 is a process in another pid namespace."""
    try:
        return _linux(sock)[0] if hasattr(socket, "SO_PEERCRED") else None
    except OSError:
        return None


def _linux(sock: Any) -> tuple[int, int]:
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid), int(uid)
