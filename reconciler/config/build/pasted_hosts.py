"""Parses text that is pasted in place of a host: `user@host:22`, a URL, an ssh command line, a quoted host.

Input: text that is not a host. Output: its parts, for a message that shows the fields to write, and for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from reconciler.config.schema.values import MAX_PORT, InvalidValueError, host
from reconciler.config.schema.violations import quoted
from reconciler.config.syntax.nodes import Scalar
from reconciler.core.secret import may_hold_secret
from reconciler.core.text.printable import printable

# accept-new writes the name of a server into known_hosts. White space and control characters would end the name or its
# line, and with `* ? ! , | @ #` it would match other hosts as well. No name or address needs any of these.
_NOT_IN_HOSTS = re.compile(r"(?![\w.:%-])[\s\x00-\x9f]")
_PROGRAMS = frozenset({"ssh", "autossh", "sftp", "scp", "mosh", "telnet", "ssh-copy-id", "slogin"})
_WITH_VALUE = frozenset("BbcDEeFIiJLlMmOoPpQRSWw")  # options of ssh that take a value; -M is autossh's, -P scp's
_OPTION = re.compile(r"(Port|User|HostName)[= ]\s*(\S+)", re.IGNORECASE)
_URL = re.compile(r"(?:(?P<scheme>[a-z][a-z0-9+.-]*):)?//", re.IGNORECASE)
_SCHEMES_OF_SSH = frozenset({"ssh", "sftp", "scp", "ssh+git", "git+ssh", ""})
_SHORT_URL = re.compile(r"(?:ssh|sftp|scp):/?(?=[^/0-9])", re.IGNORECASE)  # `ssh:host`, `ssh:/host`
_PLACE = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:/\[\]]*)(?::(?P<port>[^:/]*))?(?:/.*|:~?/.*)?", re.DOTALL)
_AROUND = " \t\r\n\v\f\xa0\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\"'`<>,;"
_PORT_DIGITS = 5
_LONGEST = 1000  # characters; longer text is not parsed


class HoldsPasswordError(Exception):
    """The text holds a password."""


@dataclass(frozen=True, slots=True)
class Pasted:
    """The parts of a pasted host. `user` and `port` may be empty."""

    host: str
    user: str = ""
    port: str = ""

    @property
    def _host(self) -> str:
        """The host as YAML, where an IPv6 address needs quotes."""
        return f'"{self.host}"' if ":" in self.host else self.host

    def fields(self) -> list[str]:
        """Return the fields of a target, as YAML."""
        texts = (("user", self.user), ("host", self._host), ("port", self.port))
        return [f"`{field}: {value}`" for field, value in texts if value]

    def item(self) -> str:
        """Return the item of `hosts`, as YAML."""
        name = f"[{self.host}]" if ":" in self.host and self.port else self.host
        text = f"{name}:{self.port}" if self.port else name
        return f'"{text}"' if ":" in self.host else text

    def inline(self) -> str:
        """Return a jump host, as YAML."""
        fields = {"host": self._host, "port": self.port, "user": self.user}
        return "{" + ", ".join(f"{field}: {value}" for field, value in fields.items() if value) + "}"


def is_plain(name: str) -> bool:
    """Return True if each character of the name can be part of a host name or an address."""
    return not _NOT_IN_HOSTS.search(name) and printable(name) == name


def pasted(text: str) -> Pasted | None:
    """Return the parts of the text, None if it has no host. Raises HoldsPasswordError."""
    if len(text) > _LONGEST:
        return None
    stripped = text.strip(_AROUND)
    words = stripped.split()
    if len(words) > 1:
        return _command(words)
    return _place(stripped)


def _command(words: list[str]) -> Pasted | None:
    """Parse `ssh -p 22 user@host`, with or without the name of the program, and `host 22`."""
    if _is_command(words):
        words = words[1:]
    elif len(words) == 2 and _is_port(words[1]):
        return _with(_place(words[0]), port=words[1])
    elif not any(word.startswith("-") for word in words):
        return None
    options: dict[str, str] = {}  # the first of each, as in ssh
    destination: Pasted | None = None
    rest = iter(words)
    for word in rest:
        if word.startswith("-") and len(word) > 1:
            options = dict(_option(word, rest)) | options
        elif destination is None and (destination := _place(word)) is not None:
            own = (("l", destination.user), ("p", destination.port))
            options = {letter: value for letter, value in own if value} | options
    if destination is None:
        return None
    name = _host(options.get("hostname", "")) or destination.host
    return _with(Pasted(name), options.get("l", ""), options.get("p", ""))


def _is_command(words: list[str]) -> bool:
    return bool(words) and words[0].rpartition("/")[2] in _PROGRAMS


def _option(word: str, rest: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of one word, which may be `-Np2222`, with those of ssh_config by their letters."""
    for position, letter in enumerate(word[1:], start=1):
        if letter in _WITH_VALUE:
            value = word[position + 1 :] or next(rest, "")
            if letter == "o" and (matched := _OPTION.fullmatch(value)):
                yield {"port": "p", "user": "l"}.get(matched[1].lower(), "hostname"), matched[2]
            else:
                yield letter.replace("P", "p"), value
            return


def _place(text: str) -> Pasted | None:
    """Parse a URL, or `user@host:port` with or without a path."""
    url = _URL.match(text) or _SHORT_URL.match(text)
    scheme = (url.groupdict().get("scheme") or "").lower() if url else ""
    authority = re.split(r"[/?#]", text[url.end() :], maxsplit=1)[0] if url else text
    user, _, place = authority.rpartition("@")
    if ":" in user:
        raise HoldsPasswordError
    matched = _PLACE.fullmatch(place)
    bare, port = (place, "") if matched is None else (matched["host"], matched["port"] or "")
    name = _host(bare)
    if not name or (port.isdecimal() and not _is_port(port)):
        return None
    if url and scheme not in _SCHEMES_OF_SSH:  # the user may be a token, and the port is that of another service
        return Pasted(name)
    if may_hold_secret(user):
        user = ""
    return Pasted(name, unquote(user.partition(";")[0]) if url else user, port if _is_port(port) else "")


def _with(found: Pasted | None, user: str = "", port: str = "") -> Pasted | None:
    if found is None:
        return None
    return Pasted(found.host, found.user or user, found.port or (port if _is_port(port) else ""))


def _host(text: str) -> str:
    try:
        name = host(Scalar(text, text))
    except InvalidValueError:
        return ""
    return name if is_plain(name) else ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _PORT_DIGITS and 1 <= int(text) <= MAX_PORT


def correction(text: str, field: str) -> str:
    """Return the message for an invalid `host`, or an item of `hosts`; "" if there is nothing to correct it to."""
    try:
        found = pasted(text)
    except HoldsPasswordError:
        return f"`{field}` holds a password: set `host`, `user` and `password: {{file: ...}}` as separate fields"
    if found is None:
        return ""
    users = [f"`user: {found.user}`"] if found.user else []
    parts = found.fields() if field == "host" else [*users, f"`{found.item()}`"]
    whole = "; `tunnels import` translates a whole command" if _is_command(text.split()) else ""
    return f"invalid host {quoted(text)}: expected {' and '.join(parts)}{whole}"
