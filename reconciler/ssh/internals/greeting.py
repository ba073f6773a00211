"""What a server sends before its SSH version (RFC 4253 section 4.2).

asyncssh skips such lines and does not report them. They tell a refusal or another protocol from an SSH server.
"""

from __future__ import annotations

import asyncssh

from reconciler.ssh.internals import kex_messages
from reconciler.ssh.internals.seam import Seam

_BYTES_MAX = 512
SEAMS = (Seam(asyncssh.SSHClientConnection, "data_received", "self data datatype"),)


class Greeting:
    """Records the bytes in `received` until the server's version arrives. It installs itself in the connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.received = b""
        self._connection = connection
        self._receive = connection.data_received
        connection.data_received = self._record  # type: ignore[method-assign]  # the transport calls it by name

    def _record(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        self.received = (self.received + data)[:_BYTES_MAX]
        self._receive(data, datatype)
        if kex_messages.server_version(self._connection):
            self.received = b""
            self._connection.data_received = self._receive  # type: ignore[method-assign]  # restore it
