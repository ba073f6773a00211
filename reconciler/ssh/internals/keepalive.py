"""A request that shows whether the server answers.

asyncssh sends such requests at its keepalive interval only, and has no public way to send one now and wait for the
answer. Its tasks for a connection end the connection if they raise, which a plain task would not.
"""

from __future__ import annotations

import asyncio

import asyncssh

from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "_make_keepalive_request", "self"),
    Seam(asyncssh.SSHClientConnection, "create_task", "self coro task_logger"),
)


def ask(connection: asyncssh.SSHClientConnection) -> asyncio.Task[None]:
    """Send a request. The task ends when the server has answered it, or the connection has ended."""
    return connection.create_task(connection._make_keepalive_request())  # noqa: SLF001 - see the module's docstring
