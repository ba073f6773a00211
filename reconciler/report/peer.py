"""Who is at the other end of a unix socket."""

from __future__ import annotations

import socket
import struct
from typing import Any

_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # macOS: sys/un.h
_XUCRED = struct.Struct("=IIh")  # version, uid, number of groups; the groups follow


def peer_uid(sock: Any) -> int | None:
    """The peer's uid when it connected; None where the system cannot tell (the socket's mode has to do then)."""
    if sock is None:
        return None
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)
    try:
        found = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
    except OSError:
        return None
    return int(_XUCRED.unpack_from(found)[1])
