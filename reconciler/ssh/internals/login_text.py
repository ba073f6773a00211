"""The texts that a server sends during a login: banners, prompts, and requests to change a password.

RFC 4252 and RFC 4256 ask for UTF-8. Servers also send Latin-1, UTF-16 or a cut character, and ssh shows those as they
are, while asyncssh ends the connection. So each such packet is rewritten before asyncssh reads it: with
its texts in UTF-8, and without language tags.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import cache
from typing import Any

from asyncssh import auth
from asyncssh.packet import Boolean, String, UInt32

from reconciler.ssh.internals.packets import SSHPacket
from reconciler.ssh.internals.seam import Seam

_BYTES_MAX = 8192  # of one text; the rest is cut
_Keyboard = auth._ClientKbdIntAuth  # noqa: SLF001 - asyncssh has no public seam for the client's side of a method
_Password = auth._ClientPasswordAuth  # noqa: SLF001 - as above
SEAMS = (
    Seam(_Keyboard, "_packet_handlers"),
    Seam(_Keyboard, "_process_info_request", "self _pkttype _pktid packet"),
    Seam(_Password, "_packet_handlers"),
    Seam(_Password, "_process_password_change", "self _pkttype _pktid packet"),
)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decoded(raw: bytes) -> str:
    """Return the text, in the encoding that its bytes suggest: a marked one, UTF-16, UTF-8 or Latin-1."""
    raw = raw[:_BYTES_MAX]
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, "replace")
    if encoding := _utf16(raw):
        return raw.decode(encoding, "replace")
    raw = raw.rstrip(b"\0")  # of a string of C
    text = raw.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    other = sum(not character.isascii() for character in text) - broken
    return text if broken <= other else raw.decode("cp1252", "replace")


def _utf16(raw: bytes) -> str:
    """Return the encoding if the bytes look like UTF-16 without a mark, "" if not.

    The spaces and the punctuation of all languages have a zero byte there, always on the same side.
    """
    first, second = 0 in raw[::2], 0 in raw[1::2]
    text = raw.rstrip(b"\0")
    if len(raw) % 2 or first == second or (0 not in text and _is_utf8(text)):  # zeros at the end only: a string of C
        return ""
    return "utf-16-le" if second else "utf-16-be"


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def banner(packet: SSHPacket) -> SSHPacket:
    """Return a banner, after its type, in a form that asyncssh can read. A request to change a password is the same."""
    return SSHPacket(String(decoded(packet.get_string())) + String(""))


def _info_request(packet: SSHPacket) -> SSHPacket:
    texts = [String(decoded(packet.get_string())) for _ in range(2)]
    packet.get_string()  # the language
    count = packet.get_uint32()
    prompts = [String(decoded(packet.get_string())) + Boolean(packet.get_boolean()) for _ in range(count)]
    return SSHPacket(b"".join((*texts, String(""), UInt32(count), *prompts)))


@cache
def install() -> None:
    """Make asyncssh read prompts in any encoding, for all connections of the process."""
    _read_first(_Keyboard, auth.MSG_USERAUTH_INFO_REQUEST, _info_request)
    _read_first(_Password, auth.MSG_USERAUTH_PASSWD_CHANGEREQ, banner)


def _read_first(method: Any, number: int, readable: Callable[[SSHPacket], SSHPacket]) -> None:
    original = method._packet_handlers[number]  # noqa: SLF001 - as above

    def process(handler: Any, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        return original(handler, pkttype, pktid, readable(packet))

    method._packet_handlers = {**method._packet_handlers, number: process}  # noqa: SLF001 - as above
