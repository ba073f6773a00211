"""The receive window of a channel whose listener chose it, and the end of a channel that has unsent bytes."""

from __future__ import annotations

from typing import Any

import asyncssh

from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHTCPChannel, "_init_recv_window"),
    Seam(asyncssh.SSHTCPChannel, "_close_send", "self"),
)


def set_receive_window(channel: asyncssh.SSHTCPChannel[Any], window: int) -> None:
    """Set the receive window: the next adjustment raises it to `window` bytes.

    asyncssh opens all channels of a server's listener with one window, and has no way to change it later.
    """
    channel._init_recv_window = window  # noqa: SLF001 - see above


def abort_with_unsent(channel: asyncssh.SSHTCPChannel[Any]) -> None:
    """Close the channel now, and drop its unsent bytes.

    asyncssh's `abort` alone does nothing to a channel that waits to close until its unsent bytes are taken.
    """
    channel._close_send()  # noqa: SLF001 - see above
    channel.abort()
