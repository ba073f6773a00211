"""Restores keys, certificates and known_hosts from text with changed line ends, quotes or encodings.

Files, variables and secret stores make such changes. This module reverses, in any combination: UTF-16 and byte order
marks, base64 or percent-encoding of the whole text, quotes around it, line ends written with a backslash, line ends
replaced by spaces or removed, indentation, and text before the key. Keys contain no quotes, backslashes or percent
signs, so only one key can be meant. Of known_hosts, only changes after which its lines can be told apart are reversed.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable
from urllib.parse import unquote

_NESTED_MAX = 3  # encodings of the whole text, one inside another
_OPENSSH, _OPENSSH_MAGIC = "OPENSSH PRIVATE KEY", b"openssh-key-v1\0"
_DER = b"\x30"  # the first byte of a binary key
_BASE64_MIN = 40  # characters; no key is shorter
_LINE = 70
_LABEL = r"\s+((?:[A-Z0-9]+\s+){0,3}PRIVATE\s+KEY)-----"
_BEGIN, _END = re.compile(f"-----BEGIN{_LABEL}"), re.compile(f"-----END{_LABEL}")
_HEADERS = re.compile(r"\s*((?:[A-Za-z][\w-]*:[ \t]*\S+\s+){0,8})(.*)", re.DOTALL)  # RFC 1421
# Without line ends, only the length of the initial vector tells where the header ends and the key begins.
_ENCRYPTED = re.compile(
    r"Proc-Type:\s*4,ENCRYPTED\s*DEK-Info:\s*(AES-[0-9]{3}-CBC,[0-9A-Fa-f]{32}|DES[A-Z0-9-]{0,9},[0-9A-Fa-f]{16})"
)
_HEADER = re.compile(r"(?<![\w-])([\w-]+:)[ \t]*(\S+)")
# A backslash occurs in no key: these are line ends, in the notation of JSON, shells and `.env` files.
_ESCAPED_END = re.compile(r"(?<!\\)\\+(?:r\\+n|r|n|u000[aAdD]|x0[aAdD])")
_INVISIBLE = re.compile("[\ufeff\u200b\u200c\u200d\u2060]")
_QUOTES = "\"'`"
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/_=-]")
_TYPE = r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9.@-]+"
_PUBLIC = re.compile(rf"(?:^|[ \t]){_TYPE}[ \t]+AAAA", re.MULTILINE)
_KNOWN_HOST = re.compile(
    rb"^[ \t]*(?:@[a-z-]+[ \t]+)?[^#@\s][^\s]*[ \t]+(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9.@-]+[ \t]+AAAA", re.MULTILINE
)


def text_of(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 by its mark or its zero bytes. Other bytes are kept as surrogates."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    even, odd = content[:4:2], content[1:4:2]
    if odd == b"\0\0" and even.isascii() and 0 not in even:
        return content.decode("utf-16-le", "replace")
    if even == b"\0\0" and odd.isascii() and 0 not in odd:
        return content.decode("utf-16-be", "replace")
    return content.decode("utf-8-sig", "surrogateescape")


def private_key(content: bytes) -> bytes | None:
    """Return the private key as PEM with line ends, or in binary (DER); None if there is none in the content."""
    if content.startswith(_DER):
        return content
    if content.startswith(_OPENSSH_MAGIC):
        return _armoured(_OPENSSH, "", base64.b64encode(content).decode("ascii"))
    text = _plain(content, lambda found: "PRIVATE" in found and "-----BEGIN" in found)
    if text is None:
        data = _unwrapped(content)
        return private_key(data) if data is not None and data.startswith((_DER, _OPENSSH_MAGIC)) else None
    begin = _BEGIN.search(text)
    end = _END.search(text, begin.end()) if begin is not None else None
    if begin is None or end is None or begin[1].split() != end[1].split():
        return None
    body = _ENCRYPTED.sub(r"Proc-Type: 4,ENCRYPTED\nDEK-Info: \1\n\n", text[begin.end() : end.start()], count=1)
    parts = _HEADERS.match(body)
    assert parts is not None  # it matches everything
    return _armoured(" ".join(begin[1].split()), parts[1], parts[2])


def _armoured(label: str, headers: str, body: str) -> bytes:
    compact = "".join(body.split())
    lines = [f"{name} {value}" for name, value in _HEADER.findall(headers)]
    lines += [""] * bool(lines) + [compact[at : at + _LINE] for at in range(0, len(compact), _LINE)]
    text = "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""))
    return text.encode("utf-8", "surrogateescape")


def public_key(content: bytes) -> bytes:
    """Return the public key or certificate as one line, or the content itself if there is none in it."""
    text = _plain(content, lambda found: _PUBLIC.search(found) is not None)
    if text is None:
        return content
    line = next(line for line in text.split("\n") if _PUBLIC.search(line))
    return line.strip().encode("utf-8", "surrogateescape") + b"\n"


def known_hosts(content: bytes) -> bytes:
    """Return known_hosts lines, or the content itself if ssh reads a line of it, or if it is something else.

    Lines that ssh reads are left as they are: the end of a line may be a comment, whatever it contains.
    """
    changed = content = content.removeprefix(codecs.BOM_UTF8)
    for _ in range(_NESTED_MAX):
        text = text_of(changed)
        if text[:1] in _QUOTES and text.rstrip()[-1:] == text[:1]:
            text = text.strip().strip(_QUOTES)
        if "\n" not in text.strip():
            text = _ESCAPED_END.sub("\n", text)
        changed = text.encode("utf-8", "surrogateescape")
        if _KNOWN_HOST.search(changed):
            return changed
        inner = _base64(text)
        if inner is None:
            return content
        changed = inner
    return content


def is_key(text: str) -> bool:
    """Return True if the text is a key or certificate, not the path of one."""
    if len(text) < _BASE64_MIN:
        return False
    content = text.encode("utf-8", "surrogateescape")
    return private_key(content) is not None or public_key(content) is not content


def _plain(content: bytes, is_it: Callable[[str], bool]) -> str | None:
    """Return the text for which `is_it` is True, without marks and quotes around it; None if there is none.

    Its line ends are line feeds.
    """
    for _ in range(_NESTED_MAX):
        text = _INVISIBLE.sub("", text_of(content)).strip().strip(_QUOTES).strip()
        if re.search(r"%0[aAdD]|BEGIN%20|%20AAAA", text):
            text = unquote(text, errors="surrogateescape")
        text = _ESCAPED_END.sub("\n", text).replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")
        if is_it(text):
            return text
        inner = _base64(text)
        if inner is None:
            return None
        content = inner
    return None


def _unwrapped(content: bytes) -> bytes | None:
    """Return the binary content of a text in base64, encoded once or several times; None if it is not base64."""
    for _ in range(_NESTED_MAX):
        inner = _base64(_ESCAPED_END.sub("", text_of(content)).strip().strip(_QUOTES))
        if inner is None or inner.startswith((_DER, _OPENSSH_MAGIC)):
            return inner
        content = inner
    return None


def _base64(text: str) -> bytes | None:
    compact = "".join(text.split()).rstrip("=")
    if len(compact) < _BASE64_MIN or _NO_BASE64.search(compact):
        return None
    standard = compact.replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64(standard + "=" * (-len(standard) % 4))
    except binascii.Error:
        return None
