"""The messages of channels (RFC 4254 section 5) and of forwarding (section 7.2, OpenSSH's PROTOCOL section 2.4).

Encoders return the payload of one packet: its type and fields, without padding or tag. Data has no encoder: `put_head`
writes the head of a data packet in front of bytes that are in place already. Parsers take the whole payload as a
memoryview, copy no data, and raise `MalformedError` for a field that is missing, too long, or followed by other bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, assert_never

from reconciler.ssh.channels.fields import MalformedError, PacketFields

HEAD: Final = 9  # bytes of a data packet before its data: type, number of the channel, count
WORD_MAX: Final = 0xFFFFFFFF
REASON_MAX: Final = 1024  # bytes of a peer's text that are kept, or that are sent

_HEAD = Struct(">BII")
_NUMBER = Struct(">BI")
_WORD = Struct(">I")
_THREE = Struct(">III")
_WORDS = tuple(Struct(f">{count}I") for count in range(4))
_NUMBERED = 5  # bytes before the fields of a packet for a channel: its type and the number of the channel


class Packet(IntEnum):
    """The types of the packets of a channel (RFC 4250 section 4.1.2)."""

    OPEN = 90
    OPEN_CONFIRMATION = 91
    OPEN_FAILURE = 92
    WINDOW_ADJUST = 93
    DATA = 94
    EXTENDED_DATA = 95
    EOF = 96
    CLOSE = 97
    REQUEST = 98
    SUCCESS = 99
    FAILURE = 100


class OpenError(IntEnum):
    """Why a channel was not opened (RFC 4254 section 5.1). Peers may send other codes."""

    PROHIBITED = 1
    CONNECT_FAILED = 2
    UNKNOWN_TYPE = 3
    RESOURCE_SHORTAGE = 4


@dataclass(frozen=True, slots=True)
class DirectTcp:
    """`direct-tcpip`: connect to host and port. The origin is the client's address (RFC 4254 section 7.2)."""

    host: str
    port: int
    origin_host: str
    origin_port: int


@dataclass(frozen=True, slots=True)
class ForwardedTcp:
    """`forwarded-tcpip`: a client connected to a listener of the server at host and port (RFC 4254 section 7.2)."""

    host: str
    port: int
    origin_host: str
    origin_port: int


@dataclass(frozen=True, slots=True)
class DirectUnix:
    """`direct-streamlocal@openssh.com`: connect to the unix socket at `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class ForwardedUnix:
    """`forwarded-streamlocal@openssh.com`: a client connected to a listener of the server at `path`."""

    path: str


Forward = DirectTcp | ForwardedTcp | DirectUnix | ForwardedUnix

_DIRECT_TCP, _FORWARDED_TCP = b"direct-tcpip", b"forwarded-tcpip"
_DIRECT_UNIX, _FORWARDED_UNIX = b"direct-streamlocal@openssh.com", b"forwarded-streamlocal@openssh.com"


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request for a channel. `what` is None for a kind of channel that is unknown here.

    number      the sender's number of the channel
    window      bytes that may be sent to the sender
    packet_max  most bytes of data in one packet to the sender
    """

    number: int
    window: int
    packet_max: int
    what: Forward | None


# --- encoders ---------------------------------------------------------------------------------------------------


def put_head(buffer: bytearray | memoryview, offset: int, number: int, count: int) -> None:
    """Write the head of a data packet of `count` bytes, which stand at `offset` + HEAD. `number`: the peer's."""
    _HEAD.pack_into(buffer, offset, Packet.DATA, number, count)


def open_channel(number: int, window: int, packet_max: int, what: Forward) -> bytes:
    kind, rest = _fields_of(what)
    head = bytes((Packet.OPEN,)) + _WORD.pack(len(kind)) + kind
    return head + _THREE.pack(number, window, packet_max) + rest


def open_confirmation(peer: int, number: int, window: int, packet_max: int) -> bytes:
    return _NUMBER.pack(Packet.OPEN_CONFIRMATION, peer) + _THREE.pack(number, window, packet_max)


def open_failure(peer: int, code: int, reason: str) -> bytes:
    """`reason` is cut to REASON_MAX bytes. The language tag is empty."""
    text = reason.encode("utf-8", "replace")[:REASON_MAX].decode("utf-8", "ignore")
    return _HEAD.pack(Packet.OPEN_FAILURE, peer, code) + _string(text) + _string("")


def window_adjust(peer: int, count: int) -> bytes:
    return _HEAD.pack(Packet.WINDOW_ADJUST, peer, count)


def short(packet: Packet, peer: int) -> bytes:
    """Encode a packet that has no field but the number of the channel: EOF, CLOSE, SUCCESS, FAILURE."""
    return _NUMBER.pack(packet, peer)


def _fields_of(what: Forward) -> tuple[bytes, bytes]:
    """Return the type of the channel, and the fields of that type."""
    match what:
        case DirectTcp(host, port, origin_host, origin_port):
            return _DIRECT_TCP, _string(host) + _WORD.pack(port) + _string(origin_host) + _WORD.pack(origin_port)
        case ForwardedTcp(host, port, origin_host, origin_port):
            return _FORWARDED_TCP, _string(host) + _WORD.pack(port) + _string(origin_host) + _WORD.pack(origin_port)
        case DirectUnix(path):
            return _DIRECT_UNIX, _string(path) + _string("") + _WORD.pack(0)  # two reserved fields
        case ForwardedUnix(path):
            return _FORWARDED_UNIX, _string(path) + _string("")  # a reserved field
        case _:
            assert_never(what)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")  # as file names are encoded: a path may be any bytes
    return _WORD.pack(len(data)) + data


# --- parsers ----------------------------------------------------------------------------------------------------


def parse_open(packet: memoryview) -> OpenRequest:
    """Parse a request for a channel."""
    fields = PacketFields(packet, 1)
    kind = bytes(fields.string())
    number, window, packet_max = fields.word(), fields.word(), fields.word()
    what: Forward | None = None
    if kind == _DIRECT_TCP:
        what = DirectTcp(fields.text(), fields.word(), fields.text(), fields.word())
        fields.end()
    elif kind == _FORWARDED_TCP:
        what = ForwardedTcp(fields.text(), fields.word(), fields.text(), fields.word())
        fields.end()
    elif kind == _DIRECT_UNIX:
        what = DirectUnix(fields.text())
        fields.string()
        fields.word()
        fields.end()
    elif kind == _FORWARDED_UNIX:
        what = ForwardedUnix(fields.text())
        fields.string()
        fields.end()
    return OpenRequest(number, window, packet_max, what)


def parse_open_number(packet: memoryview) -> int:
    """Return the sender's number of a request for a channel whose other fields may be malformed."""
    fields = PacketFields(packet, 1)
    fields.string()
    return fields.word()


def parse_open_failure(packet: memoryview) -> tuple[int, str]:
    """Return the code and the reason, cut to REASON_MAX bytes. Some old servers omit the language tag."""
    fields = PacketFields(packet, _NUMBERED)
    code, reason = fields.word(), fields.string()
    if not fields.is_empty:
        fields.string()
        fields.end()
    return code, str(reason[:REASON_MAX], "utf-8", "replace")


def parse_words(packet: memoryview, count: int) -> tuple[int, ...]:
    """Return the `count` words, at most three, after the number of the channel. They must be the rest of the packet."""
    words = _WORDS[count]
    if len(packet) != _NUMBERED + words.size:
        raise MalformedError(f"the packet has {len(packet)} bytes, expected {_NUMBERED + words.size}")
    return words.unpack_from(packet, _NUMBERED)


def parse_extended_data(packet: memoryview) -> memoryview:
    """Return the data, whatever its type code."""
    fields = PacketFields(packet, _NUMBERED)
    fields.word()
    data = fields.string()
    fields.end()
    return data


def parse_wants_reply(packet: memoryview) -> bool:
    """Return whether a request of a channel wants a reply. The fields of its type are not parsed."""
    fields = PacketFields(packet, _NUMBERED)
    fields.string()
    return fields.boolean()
