"""Data that waits for a client takes memory by its size, however small the packets of the server are."""

from __future__ import annotations

import sys

from reconciler.ssh.internals.recv_buffer import PIECE, RecvBuffer

WINDOW = 2 << 20


def test_tiny_packets_are_merged_and_come_out_in_order() -> None:
    unread = RecvBuffer()
    sent = bytes(range(256)) * (WINDOW // 256)
    for at in range(0, WINDOW, 2):
        unread.append((sent[at : at + 2], None))
    assert len(unread) == WINDOW // PIECE
    assert sum(sys.getsizeof(data) for data, _ in unread) < WINDOW * 1.25
    assert b"".join(unread.pop(0)[0] for _ in range(len(unread))) == sent


def test_large_packets_and_packet_types_are_not_merged() -> None:
    large = bytes(PIECE // 2 + 1)
    unread = RecvBuffer()
    for item in ((large, None), (b"a", None), (b"b", None), (b"c", 1), (b"d", None), (large, None)):
        unread.append(item)
    assert [(bytes(data), kind) for data, kind in unread] == [
        (large, None),
        (b"ab", None),
        (b"c", 1),
        (b"d" + large, None),
    ]
    assert unread[0][0] is large
