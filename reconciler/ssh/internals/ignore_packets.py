"""Omits the SSH_MSG_IGNORE packet that asyncssh sends before each packet.

Only CBC ciphers need it (RFC 4251 section 9.3.1), and it is half of the work of sending. asyncssh has no option for it.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.constants import MSG_IGNORE

from reconciler.ssh.internals.seam import Seam

SEAMS = (Seam(asyncssh.SSHClientConnection, "send_packet", "self pkttype args handler"),)


def omit(connection: asyncssh.SSHClientConnection) -> None:
    """Send no SSH_MSG_IGNORE on this connection from now on, unless its cipher needs it."""
    if str(connection.get_extra_info("send_cipher")).endswith("-cbc"):
        return
    send = connection.send_packet

    def send_packet(pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype != MSG_IGNORE:
            send(pkttype, *args, handler=handler)

    connection.send_packet = send_packet  # type: ignore[method-assign]  # asyncssh calls it by name
