"""Reads the fields of a packet (RFC 4251 section 5) from a memoryview, without copying them."""

from __future__ import annotations

import struct

_WORD = struct.Struct(">I")


class MalformedError(ValueError):
    """Raised for a packet whose fields do not fit its length."""


class PacketFields:
    """Reads the fields of a packet in order, from `at`. Each method raises MalformedError."""

    __slots__ = ("_at", "_packet")

    def __init__(self, packet: memoryview, at: int) -> None:
        self._packet = packet
        self._at = at

    def word(self) -> int:
        try:
            (value,) = _WORD.unpack_from(self._packet, self._at)
        except struct.error:
            raise self._too_short(self._at + _WORD.size) from None
        self._at += _WORD.size
        return int(value)

    def boolean(self) -> bool:
        return self._take(1)[0] != 0

    def string(self) -> memoryview:
        return self._take(self.word())

    def text(self) -> str:
        return str(self.string(), "utf-8", "surrogateescape")

    def end(self) -> None:
        if not self.is_empty:
            raise MalformedError(f"{len(self._packet) - self._at} bytes after the last field")

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._packet)

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._packet):
            raise self._too_short(end)
        taken, self._at = self._packet[self._at : end], end
        return taken

    def _too_short(self, end: int) -> MalformedError:
        return MalformedError(f"a field ends at byte {end} of a packet of {len(self._packet)} bytes")
