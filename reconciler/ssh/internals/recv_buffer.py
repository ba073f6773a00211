"""The data that a channel has received while its client does not read, merged into larger pieces.

asyncssh keeps each packet separately, in a list from which it removes the first. With two bytes in each packet, a
window of 2 MiB cost 96 MB, and delivering it blocked for seconds (both measured).
"""

from __future__ import annotations

from typing import Any

import asyncssh

from reconciler.ssh.internals.seam import Seam

PIECE = 64 << 10  # bytes
SEAMS = (Seam(asyncssh.SSHTCPChannel, "_recv_buf"),)


class RecvBuffer(list[tuple[Any, asyncssh.DataType]]):  # Any: bytes, or a bytearray that is still filling
    """Replaces asyncssh's list, which it appends to and removes the first from: 32 pieces with the usual window."""

    def append(self, item: tuple[Any, asyncssh.DataType]) -> None:
        data, kind = item
        if self:
            last, same = self[-1]
            if same == kind and isinstance(last, bytearray) and len(last) + len(data) <= PIECE:
                last += data
                return
        # Keep a large piece as it is: nothing fits into it any more, and a copy would cost its size.
        super().append((data if len(data) > PIECE // 2 else bytearray(data), kind))


def merge(channel: asyncssh.SSHTCPChannel[Any]) -> None:
    """Merge the unread bytes of this channel from now on. asyncssh has no public way to do this."""
    channel._recv_buf = RecvBuffer(channel._recv_buf)  # noqa: SLF001 - see above
