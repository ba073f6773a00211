"""What a channel has received while its client does not read, merged into pieces of a useful size.

asyncssh keeps each packet as it came, in a list from which it takes the first. A server that sends two bytes a packet
could make a window of 2 MiB cost 96 MB, and delivering it stand still for seconds (both measured).
"""

from __future__ import annotations

from typing import Any

import asyncssh

PIECE = 64 << 10  # bytes


class RecvBuffer(list[tuple[Any, asyncssh.DataType]]):  # Any: bytes, or a bytearray that is still filling
    """In place of asyncssh's list, which it appends to and takes the first of: of 32 pieces, with the usual window."""

    def append(self, item: tuple[Any, asyncssh.DataType]) -> None:
        data, kind = item
        if self:
            last, same = self[-1]
            if same == kind and isinstance(last, bytearray) and len(last) + len(data) <= PIECE:
                last += data
                return
        # A piece that is large already is kept as it is: nothing would be added to it, and a copy costs its size.
        super().append((data if len(data) > PIECE // 2 else bytearray(data), kind))


def merge(channel: asyncssh.SSHTCPChannel[Any]) -> None:
    """From now on this channel's unread bytes are merged. (asyncssh offers no other way in.)"""
    channel._recv_buf = RecvBuffer(channel._recv_buf)  # noqa: SLF001 - as said
