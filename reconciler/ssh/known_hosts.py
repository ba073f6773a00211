"""known_hosts files and pinned keys: parsing them, finding the lines for a host, and what may be added to a file.

No network, no decision.

The form is sshd(8)'s: `[markers] patterns type key`, with plain, hashed (|1|), `[host]:port`, wildcard and negated
patterns. Only lines whose patterns match are decoded, so one odd line costs nothing to the others.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import asyncssh

from reconciler.core.spec import Endpoint, Trust, TrustMode

SSH_PORT = 22
PINNED = "hostKeys"  # the place of a pinned key
_MARKERS = ("@cert-authority", "@revoked")
# White space and controls would end the name or the line; the rest of ASCII is what known_hosts (patterns, lists,
# markers, hashes, comments) or a shell reads as more than a name.
_NO_NAME = re.compile(r"(?![\w.:%\[\]-])[\s\x00-\x9f\ud800-\udfff]")
# sshd(8) reads `WORD type key` in authorized_keys as a key that lets somebody in: such a word is never a host's name.
_LOGIN_OPTION = re.compile(
    r"restrict|cert-authority|(no-)?(pty|user-rc|(agent|port|x11)-forwarding|(touch|verify)-required)"
)
# The key's first bytes are the length of its type's name, hence AAAA. Without a type: a line of SSH's first version.
_KNOWN_HOSTS_LINE = re.compile(
    r"(?:@[a-z-]+[ \t]+)?([^\s\"@]+)[ \t]+"
    r"(?:[a-z][a-z0-9.@-]*[ \t]+AAAA[A-Za-z0-9+/]*={0,3}|[0-9]{3,5}[ \t]+[0-9]+[ \t]+[0-9]{100,})(?:[ \t].*)?"
)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key from a known_hosts line or a pinned one, and where it stands, for messages."""

    key: asyncssh.SSHKey
    place: str

    def is_key(self, other: asyncssh.SSHKey) -> bool:
        return self.key.public_data == other.public_data


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of one host. `elsewhere` are keys known for the host's name without its port."""

    keys: tuple[KnownKey, ...]
    authorities: tuple[KnownKey, ...]
    revoked: tuple[KnownKey, ...]
    elsewhere: tuple[KnownKey, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    marker: str
    patterns: str  # "" in a pinned line: it is this host's by where it stands
    key: str
    place: str


def look_up(trust: Trust, endpoint: Endpoint) -> Knowledge:
    """Everything `trust` knows of the endpoint. Pinned lines win: with any of them, no file is read.

    Only where accept-new may write to a file that file is read too, or it would accept every key each time: that is
    where all that is pinned is @revoked.
    Raises OSError for a file that is there and cannot be read; a missing one knows nothing.
    """
    if not trust.host_keys:
        return _in_files(trust, endpoint)
    lines = [pinned_line(text) for text in trust.host_keys]
    pinned = Knowledge(
        keys=tuple(_decoded(line for line in lines if not line.marker)),
        authorities=tuple(_decoded(line for line in lines if line.marker == "@cert-authority")),
        revoked=tuple(_decoded(line for line in lines if line.marker == "@revoked")),
        elsewhere=(),
    )
    if trust.mode is not TrustMode.ACCEPT_NEW or pinned.keys or pinned.authorities:
        return pinned
    found = _in_files(trust, endpoint)
    return replace(found, revoked=(*pinned.revoked, *found.revoked))


def _in_files(trust: Trust, endpoint: Endpoint) -> Knowledge:
    """As ssh does, a host on another port than 22 also believes the keys of its bare name, if its own has none."""
    name, bare = lookup_name(trust, endpoint), endpoint.host.lower()
    lines = [line for path in trust.known_hosts for line in _read(path)]
    own = [line for line in lines if matches(line.patterns, name)]
    by_bare_name = [line for line in lines if matches(line.patterns, bare)] if not trust.alias and bare != name else []
    keys = tuple(_decoded(line for line in own if not line.marker))
    authorities = tuple(_decoded(line for line in own if line.marker == "@cert-authority"))
    if not keys and not authorities:
        authorities = tuple(_decoded(line for line in by_bare_name if line.marker == "@cert-authority"))
    return Knowledge(
        keys=keys,
        authorities=authorities,
        revoked=tuple(_decoded(line for line in (*own, *by_bare_name) if line.marker == "@revoked")),
        elsewhere=() if keys else tuple(_decoded(line for line in by_bare_name if not line.marker)),
    )


def lookup_name(trust: Trust, endpoint: Endpoint) -> str:
    """The name under which a host's lines stand: the alias as it is, else the host, `[host]:port` unless 22."""
    if trust.alias:
        return trust.alias.lower()
    host = endpoint.host.lower()
    return host if endpoint.port == SSH_PORT else f"[{host}]:{endpoint.port}"


def pinned_line(text: str) -> _Line:
    """`[marker] type key [comment]`, as in `hostKeys:`. Raises ValueError."""
    fields = text.split()
    marker = fields.pop(0) if fields and fields[0] in _MARKERS else ""
    line = _Line(marker, "", " ".join(fields), PINNED)
    if len(fields) < 2 or not list(_decoded([line])):
        raise ValueError("a pinned host key is `type base64`, perhaps after @cert-authority or @revoked")
    return line


def may_be_added(name: str) -> bool:
    """Whether a line that begins with this name says something about this one host and nothing else, in any file."""
    return bool(name) and not _NO_NAME.search(name) and not _LOGIN_OPTION.fullmatch(name.lower())


def foreign_line(content: str) -> int:
    """The number of the first line that is no known_hosts line, comment or blank; 0 where there is none.

    Lines end where a shell and sshd end them, at line feeds, and not at all that Python takes for a line's end.
    """
    for number, raw in enumerate(content.split("\n"), start=1):
        line = raw.strip()
        if line and not line.startswith("#") and not _is_known_hosts_line(line):
            return number
    return 0


def _is_known_hosts_line(line: str) -> bool:
    found = _KNOWN_HOSTS_LINE.fullmatch(line)
    return found is not None and not any(_LOGIN_OPTION.fullmatch(word) for word in found[1].lower().split(","))


def _read(path: str) -> Iterator[_Line]:
    try:
        if Path(path).is_fifo():  # reading it would wait for a writer
            raise OSError(errno.EINVAL, "it is a pipe", path)
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        marker = ""
        if line.startswith("@"):
            marker, _, line = line.partition(" ")
            if marker not in _MARKERS:
                continue
        fields = line.split(None, 1)
        if len(fields) > 1:
            yield _Line(marker, fields[0], fields[1], f"{path}:{number}")


def _decoded(lines: Iterable[_Line]) -> Iterator[KnownKey]:
    for line in lines:
        try:
            yield KnownKey(asyncssh.import_public_key(line.key), line.place)
        except ValueError:  # a type that asyncssh does not know: cannot be agreed on either
            continue


def matches(patterns: str, name: str) -> bool:
    """Whether a known_hosts pattern list covers the name; a negated pattern that matches excludes it."""
    if patterns.startswith("|"):
        return _matches_hash(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        if pattern.startswith("!"):
            if _covers(pattern[1:], name):
                return False
        elif not found and _covers(pattern, name):
            found = True
    return found


def _covers(pattern: str, name: str) -> bool:
    if "*" in pattern or "?" in pattern:
        return _wildcard(pattern).fullmatch(name) is not None
    return pattern == name


@lru_cache(maxsize=512)
def _wildcard(pattern: str) -> re.Pattern[str]:
    """Only * and ? are special: the brackets of `[host]:port` stand for themselves."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _matches_hash(pattern: str, name: str) -> bool:
    try:
        _, magic, salt, digest = pattern.split("|")
        if magic != "1":
            return False
        expected = base64.b64decode(digest)
        found = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(found, expected)
