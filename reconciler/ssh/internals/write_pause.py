"""When the transport of a connection has too many unsent bytes.

The transport calls `pause_writing` and `resume_writing` of asyncio's Protocol on the connection. asyncssh's own do
nothing, so it buffers without a limit, and has no callback for it.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "pause_writing", "self"),
    Seam(asyncssh.SSHClientConnection, "resume_writing", "self"),
)


def observe(connection: asyncssh.SSHClientConnection, pause: Callable[[], None], resume: Callable[[], None]) -> None:
    """Call `pause` when the transport's buffer is full, and `resume` when it has room again."""
    connection.pause_writing = pause  # type: ignore[method-assign]  # the transport calls it by name
    connection.resume_writing = resume  # type: ignore[method-assign]  # as above
