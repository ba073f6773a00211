"""Decompression of received packets, with a limit for each packet.

zlib expands one byte to up to a thousand. asyncssh has no limit: 256 KiB became 256 MiB, in one call and one block of
memory. Here a packet may expand to the size limit of an uncompressed one, as in OpenSSH.

A packet of empty blocks, each with its own tables, expands to nothing and takes a third of a second. No compressor
makes such packets, so one that has expanded to less than half of what was read is refused.
"""

from __future__ import annotations

import zlib
from functools import cache

import asyncssh
from asyncssh import compression

from reconciler.ssh.internals.seam import Seam

PIECE = 4 << 10  # bytes that are expanded at once; the overhead of a small packet is less
EXPANDED_MAX = 256 << 10  # bytes of one packet: OpenSSH's PACKET_MAX_SIZE and asyncssh's own limit without compression

SEAMS = (
    Seam(compression.Decompressor, "decompress", "self data"),
    Seam(compression, "register_compression_alg", "alg compressor decompressor after_auth default"),
    Seam(compression, "get_compressor", "alg"),
    Seam(compression, "get_compression_params", "alg"),
    Seam(compression, "get_compression_algs", ""),
)


class Decompressor(compression.Decompressor):
    """The decompressor of one direction of one connection."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decompress(self, data: bytes) -> bytes:
        """Expand the payload of one packet. Raises ProtocolError, which ends the connection."""
        expanded = bytearray()
        for start in range(0, len(data), PIECE):
            if 2 * len(expanded) < start:
                raise asyncssh.ProtocolError(f"a compressed packet of {len(data)} bytes expands to less")
            try:
                expanded += self._stream.decompress(data[start : start + PIECE], EXPANDED_MAX + 1 - len(expanded))
            except zlib.error:
                raise asyncssh.ProtocolError("a compressed packet cannot be expanded") from None
            if len(expanded) > EXPANDED_MAX:
                text = f"a compressed packet of {len(data)} bytes expands to more than {EXPANDED_MAX >> 10} KiB"
                raise asyncssh.ProtocolError(text)
        if not expanded:
            raise asyncssh.ProtocolError("a compressed packet expands to nothing")
        return bytes(expanded)


@cache
def install() -> None:
    """Make asyncssh use this decompressor for all connections of the process."""
    for name in (b"zlib@openssh.com", b"zlib"):
        compressor = type(compression.get_compressor(name))
        compression.register_compression_alg(
            name, compressor, Decompressor, compression.get_compression_params(name), default=False
        )
        # Registering appends the name to the list of all names, which has it already.
        compression.get_compression_algs().remove(name)
