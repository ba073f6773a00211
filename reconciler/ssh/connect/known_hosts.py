"""known_hosts files and pinned keys: which lines apply to a host, and what is a valid known_hosts line.

Pure. Input: the content of the files. The format is that of sshd(8): `[marker] patterns type key [comment]`. Lines and
fields are parsed in known_hosts_lines.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import asyncssh

from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.core.text import key_text
from reconciler.ssh.connect.known_hosts_lines import Deadline, Line, TooMuchError, decoded, lines_of, matches
from reconciler.ssh.internals.keys import public_keys

SSH_PORT = 22
_LINES_MAX = 1000  # for one host: each is compared with the presented key, on the event loop
PINNED = "hostKeys"  # the place of a pinned key
_MARKERS = ("@cert-authority", "@revoked")
# In authorized_keys, `WORD type key` is a key that may log in (sshd(8)): such a word is never a host name.
_LOGIN_OPTION = re.compile(
    r"restrict|cert-authority|(no-)?(pty|user-rc|(agent|port|x11)-forwarding|(touch|verify)-required)"
)
_BARE_KEY = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9.@-]+[ \t]+AAAA")
_ENTRY = re.compile(rf"[ \t]{_BARE_KEY.pattern}")
_ODD_MAX = 1 << 16  # bytes
_FULL_LINE = re.compile(r"[^\n]+")
# The key starts with the length of its type's name, hence AAAA. Without a type: a line of SSH version 1.
_KNOWN_HOSTS_LINE = re.compile(
    r"(?:@[a-z-]+[ \t]+)?([^\s\"@]+)[ \t]+"
    r"(?:[a-z][a-z0-9.@-]*[ \t]+AAAA[A-Za-z0-9+/]*={0,3}|[0-9]{3,5}[ \t]+[0-9]+[ \t]+[0-9]{100,})(?:[ \t].*)?"
)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key from a known_hosts line or a pinned one, and its place for messages."""

    key: asyncssh.SSHKey
    place: str

    def is_key(self, other: asyncssh.SSHKey) -> bool:
        return public_keys.encoded(self.key) == public_keys.encoded(other)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The known keys of one host. `elsewhere` are keys for the host's name without its port.

    odd   names the first line that is not a known_hosts line (`line 1 of PATH ...`); "" if none, or a key was found
    """

    keys: tuple[KnownKey, ...]
    authorities: tuple[KnownKey, ...]
    revoked: tuple[KnownKey, ...]
    elsewhere: tuple[KnownKey, ...]
    odd: str = field(default="", compare=False)


def look_up(trust: Trust, endpoint: Endpoint, files: Mapping[str, bytes], deadline: Deadline) -> Knowledge:
    """The known keys of the endpoint by `trust`. `files`: content of the `needed_files` that exist.

    Raises ValueError for an invalid pinned line, and TooMuchError.
    """
    if not trust.host_keys:
        return _in_files(trust, endpoint, files, deadline)
    pinned = _pinned(trust)
    if trust.mode is not TrustMode.ACCEPT_NEW or pinned.keys or pinned.authorities:
        return pinned
    found = _in_files(trust, endpoint, files, deadline)
    return replace(found, revoked=(*pinned.revoked, *found.revoked))


def needed_files(trust: Trust) -> tuple[str, ...]:
    """The files to read: none if keys are pinned, because pinned lines win.

    If all pinned lines are @revoked, accept-new writes to a file, so it reads that file too: else it would accept every
    key each time.
    Raises ValueError for an invalid pinned line.
    """
    if trust.host_keys:
        pinned = _pinned(trust)
        if trust.mode is not TrustMode.ACCEPT_NEW or pinned.keys or pinned.authorities:
            return ()
    return trust.known_hosts


def _pinned(trust: Trust) -> Knowledge:
    lines = [pinned_line(text) for text in trust.host_keys]
    return Knowledge(
        keys=_keys(line for line in lines if not line.marker),
        authorities=_keys(line for line in lines if line.marker == "@cert-authority"),
        revoked=_keys(line for line in lines if line.marker == "@revoked"),
        elsewhere=(),
    )


def _in_files(trust: Trust, endpoint: Endpoint, files: Mapping[str, bytes], deadline: Deadline) -> Knowledge:
    """Look in the files. As in ssh, a host on a port other than 22 falls back to the keys of its bare name."""
    name, bare = lookup_name(trust, endpoint), lower(endpoint.host)
    with_bare = not trust.alias and bare != name
    own: list[Line] = []
    by_bare_name: list[Line] = []
    for path in trust.known_hosts:
        for line in lines_of(files.get(path, b""), path, deadline):
            if matches(line.patterns, name, deadline):
                own.append(line)
            if with_bare and matches(line.patterns, bare, deadline):
                by_bare_name.append(line)
            if len(own) + len(by_bare_name) > _LINES_MAX:
                raise TooMuchError(f"more than {_LINES_MAX} lines are about {name}")
    keys = _keys(line for line in own if not line.marker)
    authorities = _keys(line for line in own if line.marker == "@cert-authority")
    if not keys and not authorities:
        authorities = _keys(line for line in by_bare_name if line.marker == "@cert-authority")
    return Knowledge(
        keys=keys,
        authorities=authorities,
        revoked=_keys(line for line in (*own, *by_bare_name) if line.marker == "@revoked"),
        elsewhere=() if keys else _keys(line for line in by_bare_name if not line.marker),
        odd="" if keys or authorities else _odd_line(files),
    )


def _odd_line(files: Mapping[str, bytes]) -> str:
    """Name the first line that is not a known_hosts line, in the files that are not large."""
    for path, content in files.items():
        text = key_text.known_hosts(content).decode("utf-8", "replace") if len(content) < _ODD_MAX else ""
        if "\n" not in text.strip() and len(_ENTRY.findall(text)) > 1:
            return f"line 1 of {path} contains several hosts: its line ends were replaced by spaces"
        if number := foreign_line(text):
            line = text.split("\n")[number - 1].strip()
            what = "is a key without the name of its host" if _BARE_KEY.match(line) else "is not a known_hosts line"
            return f"line {number} of {path} {what}"
    return ""


def lower(name: str) -> str:
    """Convert ASCII letters only to lower case, as ssh does: U+212A, the Kelvin sign, is not a k."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def lookup_name(trust: Trust, endpoint: Endpoint) -> str:
    """The name of a host in known_hosts: the alias, else the host, as `[host]:port` unless the port is 22."""
    if trust.alias:
        return lower(trust.alias)
    host = lower(endpoint.host)
    return host if endpoint.port == SSH_PORT else f"[{host}]:{endpoint.port}"


def pinned_line(text: str) -> Line:
    """`[marker] type key [comment]`, as in `hostKeys:`. Raises ValueError."""
    fields = text.split()
    marker = fields.pop(0) if fields and fields[0] in _MARKERS else ""
    if len(fields) >= 2:
        key_type, key = (field.encode("utf-8", "surrogatepass") for field in fields[:2])
        line = Line(marker, b"", key_type, key, PINNED)
        if decoded(line) is not None:
            return line
    raise ValueError("expected `type base64`, optionally after @cert-authority or @revoked")


def _keys(lines: Iterable[Line]) -> tuple[KnownKey, ...]:
    found = ((decoded(line), line.place) for line in lines)
    return tuple(KnownKey(key, place) for key, place in found if key is not None)


def foreign_line(content: str) -> int:
    """The number of the first line that is not a known_hosts line, comment or blank; 0 if there is none.

    Lines end at line feeds only, as for a shell and sshd, and not at every line end of Python.
    """
    for found in _FULL_LINE.finditer(content):
        line = found[0].strip(" \t\r")
        if line and not line.startswith("#") and not _is_known_hosts_line(line):
            return content.count("\n", 0, found.start()) + 1
    return 0


def _is_known_hosts_line(line: str) -> bool:
    found = _KNOWN_HOSTS_LINE.fullmatch(line)
    return found is not None and not any(_LOGIN_OPTION.fullmatch(word) for word in found[1].lower().split(","))
