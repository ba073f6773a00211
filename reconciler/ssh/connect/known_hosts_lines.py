"""The lines of known_hosts files as OpenSSH reads them (hostfile.c, match.c, sshkey.c), on bytes.

- A line ends at LF only. Fields are separated by blanks and tabs; a NUL ends the patterns, or the line.
- Markers are @cert-authority and @revoked. A line with another marker, or with two, is ignored.
- Patterns ignore the case of ASCII letters; `*` and `?` are wildcards, `!` negates, and the brackets of `[host]:port`
  are literal. A pattern of 1023 bytes or more makes its line match nothing.
- A hashed name (`|1|salt|HMAC-SHA1`) is the name of one host, in canonical form.
- The type before a key equals the type inside it. The base64 may contain white space (a CR at the end of the line), and
  nothing else that is not base64.

One rule is stricter: ssh 9.2 ignores a line whose marker ends with a tab if a blank follows anywhere later.
Here such a @revoked line counts, and such a @cert-authority line is ignored too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import asyncssh

from reconciler.core.text import key_text
from reconciler.ssh.internals.keys.certificates import certified_key

_MARKERS = {b"@cert-authority": "@cert-authority", b"@revoked": "@revoked"}
_FULL_LINE = re.compile(rb"[^\n]+")
_PATTERN = re.compile(rb"[^,]+")
_HEAD = re.compile(rb"[ \t]*(@[^ \t\0]*)?")
_FIELD = re.compile(rb"[ \t]*([^ \t\0]*)")
_CERTIFICATE = b"-cert-v01@openssh.com"  # ends a type; a revoked certificate revokes its key
_HASH_MAGIC = b"|1|"
_SALT_LENGTH = 20  # bytes, as of SHA-1's digest
_PATTERN_MAX = 1023  # bytes; ssh's buffer
_NAME_MAX = 1024  # bytes; no resolver knows a longer one
_CHECK_EVERY = 256  # patterns between two checks of the clock; one with wildcards counts more
_BYTES_A_STEP = 64
_TYPE_LENGTH = 4  # bytes of the length before the type inside a key


class TooMuchError(Exception):
    """The known_hosts files take too long to search, or have too many keys for one host."""


class Deadline:
    """A limit for the processor time of the thread, checked now and then; each check calls `pause`."""

    def __init__(self, seconds: float, pause: Callable[[], None] = lambda: None) -> None:
        self._seconds = seconds
        self._pause = pause
        self._at = time.thread_time() + seconds
        self._steps = 0

    def spend(self, steps: int = 1) -> None:
        """Raises TooMuchError after the deadline."""
        self._steps += steps
        if self._steps >= _CHECK_EVERY:
            self._steps = 0
            if time.thread_time() > self._at:
                raise TooMuchError(f"searching it takes over {self._seconds:g} s")
            self._pause()


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `patterns` is b"" in a pinned line, which belongs to the target that names it."""

    marker: str
    patterns: bytes
    key_type: bytes
    key: bytes
    place: str


def lines_of(content: bytes, path: str, deadline: Deadline) -> Iterator[Line]:
    """The lines that name a key; comments and invalid lines are skipped."""
    content = key_text.known_hosts(content)
    number, counted = 1, 0
    for found in _FULL_LINE.finditer(content):
        deadline.spend()
        number += content.count(b"\n", counted, found.start())
        counted = found.start()
        line = _line(found[0], path, number)
        if line is not None:
            yield line


def _line(raw: bytes, path: str, number: int) -> Line | None:
    head = _HEAD.match(raw)
    assert head is not None  # it matches everything
    marker, at = head[1], head.end()
    if marker is not None:
        if marker not in _MARKERS or raw[at : at + 1] not in (b" ", b"\t"):
            return None
        if marker == b"@cert-authority" and raw[at : at + 1] == b"\t" and b" " in raw[at:].split(b"\0", 1)[0]:
            return None
    patterns = _FIELD.match(raw, at)
    assert patterns is not None
    first = patterns[1][:1]
    if first in (b"", b"@") or (first == b"#" and marker is None):
        return None
    rest = raw[patterns.end() + 1 :].split(b"\0", 1)[0].lstrip(b" \t")
    key_type, _, key = rest.replace(b"\t", b" ").partition(b" ")
    key = key.lstrip(b" ").partition(b" ")[0]
    if not key or b"#" in (key_type[:1], key[:1]):
        return None
    return Line(_MARKERS[marker] if marker else "", patterns[1], key_type, key, f"{path}:{number}")


def decoded(line: Line) -> asyncssh.SSHKey | None:
    """The key of the line; None if ssh would not read it, or asyncssh does not support its type."""
    text = b"".join(line.key.split())
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
        inner = data[_TYPE_LENGTH : _TYPE_LENGTH + int.from_bytes(data[:_TYPE_LENGTH])]
        if inner != line.key_type or base64.b64encode(data) != text:
            return None
        if line.marker == "@revoked" and inner.endswith(_CERTIFICATE):
            return certified_key(asyncssh.import_certificate(inner + b" " + text))
        return asyncssh.import_public_key(inner + b" " + text)
    except ValueError:  # binascii's and asyncssh's errors are ValueErrors
        return None


# --- names ------------------------------------------------------------------------------------------------------


def matches(patterns: bytes, name: str, deadline: Deadline) -> bool:
    """Return True if a pattern list covers the name, which is in lower case."""
    raw = name.encode("utf-8", "surrogatepass")
    deadline.spend()
    if patterns.startswith(b"|"):
        return _is_hash_of(patterns, raw)
    if len(raw) > _NAME_MAX:
        return False
    found = False
    for each in _PATTERN.finditer(patterns.lower()):  # an empty pattern matches no name
        pattern = each[0]
        deadline.spend(1 + (len(pattern) * len(raw) // _BYTES_A_STEP if b"*" in pattern else 0))
        negated = pattern.startswith(b"!")
        if len(pattern) - negated >= _PATTERN_MAX:
            return False
        if (negated or not found) and covers(pattern[negated:], raw):
            if negated:
                return False
            found = True
    return found


def covers(pattern: bytes, name: bytes) -> bool:
    """Return True if the pattern with `*` and `?` matches the whole name, in len(pattern) * len(name) steps at most."""
    if b"*" not in pattern and b"?" not in pattern:
        return pattern == name
    if len(pattern) - pattern.count(b"*") > len(name):
        return False
    at = in_name = 0
    star = after_star = -1  # the latest `*`, and the position in the name where the rest is tried
    while in_name < len(name):
        if at < len(pattern) and pattern[at] == ord("*"):
            star, after_star = at, in_name
            at += 1
        elif at < len(pattern) and pattern[at] in (ord("?"), name[in_name]):
            at, in_name = at + 1, in_name + 1
        elif star >= 0:  # extend the latest `*` by one byte; an earlier one never needs it
            after_star += 1
            at, in_name = star + 1, after_star
        else:
            return False
    return not pattern[at:].strip(b"*")


def hashed(name: str) -> str:
    """The hashed form of the name, with a new salt."""
    return _hash(secrets.token_bytes(_SALT_LENGTH), name.encode("utf-8", "surrogatepass")).decode("ascii")


def _is_hash_of(patterns: bytes, name: bytes) -> bool:
    salt, _, _ = patterns.removeprefix(_HASH_MAGIC).partition(b"|")
    try:
        raw = binascii.a2b_base64(salt)
    except ValueError:
        return False
    return len(raw) == _SALT_LENGTH and hmac.compare_digest(_hash(raw, name), patterns)


def _hash(salt: bytes, name: bytes) -> bytes:
    digest = hmac.digest(salt, name, hashlib.sha1)
    return _HASH_MAGIC + base64.b64encode(salt) + b"|" + base64.b64encode(digest)
