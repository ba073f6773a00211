"""A compressed packet is expanded within limits, and what a compressor makes is expanded whole."""

from __future__ import annotations

import random
import zlib

import asyncssh
import pytest

from reconciler.ssh.internals.decompression import EXPANDED_MAX, PIECE, Decompressor

RANDOM = random.Random(1).randbytes(200 << 10)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("flush", [zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH])
def test_the_packets_of_one_stream_are_expanded(level: int, flush: int) -> None:
    compressor, decompressor = zlib.compressobj(level), Decompressor()
    for payload in (RANDOM, b"x", bytes(EXPANDED_MAX), RANDOM[: PIECE + 1], b"text " * 20_000, b"y"):
        assert decompressor.decompress(compressor.compress(payload) + compressor.flush(flush)) == payload


def test_a_packet_that_expands_to_less_is_refused_before_it_is_read_whole() -> None:
    compressor = zlib.compressobj()
    blocks = b"".join(compressor.compress(b"x") + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(20_000))
    with pytest.raises(asyncssh.ProtocolError, match="expands to less"):
        Decompressor().decompress(blocks)


@pytest.mark.parametrize("size", [EXPANDED_MAX + 1, 64 << 20])
def test_a_packet_that_expands_to_too_much_is_refused(size: int) -> None:
    with pytest.raises(asyncssh.ProtocolError, match="expands to more than 256 KiB"):
        Decompressor().decompress(zlib.compress(bytes(size)))


@pytest.mark.parametrize(("data", "said"), [(b"", "expands to nothing"), (b"no zlib", "cannot be expanded")])
def test_a_packet_without_content_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(asyncssh.ProtocolError, match=said):
        Decompressor().decompress(data)
