"""The number of a connection in asyncssh's log.

asyncssh has one logger for all connections and no filter. It starts each message about a connection with the number:
`[conn=3] ...`, `[conn=3, chan=0] ...`.
"""

from __future__ import annotations

import re

import asyncssh

from reconciler.ssh.internals.seam import Seam

_NUMBER = re.compile(r"\[(conn=\d+)[],]")
SEAMS = (Seam(type(asyncssh.logger), "process", "self msg kwargs"),)


def of(connection: asyncssh.SSHClientConnection) -> str:
    """Return the connection's number, "" if it has none."""
    text, _ = connection.logger.process("", {})
    return in_message(text)


def in_message(message: str) -> str:
    """Return the number in a log message, "" if it is not about a connection."""
    found = _NUMBER.match(message)
    return found.group(1) if found else ""
