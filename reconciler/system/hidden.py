"""Values of environment variables that must not be shown: `hide` puts the variable's name in their place.

A configuration may put a variable into any text: a token into the path of a probe, a whole host name. The value is used
as it is, and it comes back from code that knows nothing of variables: the resolver, asyncssh, the standard error of a
proxy command. So the values do not remember where they came from. All text that leaves the process goes through `hide`:
log lines, the answers of both servers, metrics, and what commands print.

Not hidden, because they are no secrets and are needed to be useful: numbers of at most five digits (ports), durations,
rates, addresses and address blocks, `localhost`, true and false, the words that the file format itself has, and names
of targets and tunnels. Nor is a value of one or two characters, which is a part of every second word.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
import threading
import weakref
from collections.abc import Collection, Iterator
from urllib.parse import quote

_SHORTEST = 3  # characters of a value that is hidden,
_INSIDE_WORDS = 4  # and of one that is also hidden as a part of a word
_PLAIN = re.compile(r"[0-9.]{1,5}|[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h|B/s|[kMG]B/s|[KMG]iB/s)|[0-9]{1,5}-[0-9]{1,5}")
_PLAIN_WORDS = frozenset({"true", "false", "null", "none", "localhost"})
_SEPARATORS = re.compile(r"[:@\[\]\s]+")  # at which fields are taken apart: user@host, host:port, port:host:port
_KEPT = frozenset(  # keys of JSON objects whose values are names and closed sets of words
    ("id", "target", "tunnel", "name", "subject", "type", "phase", "before", "reason", "action", "revision", "level")
)

_lock = threading.Lock()
_all: weakref.WeakSet[Hidden] = weakref.WeakSet()
_compiled: tuple[int, re.Pattern[str] | None, dict[str, str]] = (0, None, {})  # of which of the changes it is
_changes = itertools.count(1)
_latest = 0


class Hidden:
    """The values that the files of one configuration name. They are hidden for as long as this object lives."""

    def __init__(self, words: Collection[str] = ()) -> None:
        """`words`: those of the file format, which are never hidden."""
        self._words = frozenset(words) | _PLAIN_WORDS
        self._values: dict[str, str] = {}  # by the text to hide: what to show
        self._kept: frozenset[str] = frozenset()
        with _lock:
            _all.add(self)
        weakref.finalize(self, _changed)

    def add(self, name: str, value: str) -> None:
        """Hide the value of this variable from now on."""
        shown = f"${{{name}}}"
        new = {text: shown for text in _forms(value) if text not in self._values and not self._is_plain(text)}
        if new:
            with _lock:
                self._values |= new
            _changed()

    def keep(self, names: Collection[str]) -> None:
        """Do not hide these: they are names of targets and tunnels."""
        kept = frozenset(name for name in names if name in self._values)
        if kept != self._kept:
            self._kept = kept
            _changed()

    def values(self) -> dict[str, str]:
        """What to show, by the text that is hidden."""
        return {text: shown for text, shown in self._values.items() if text not in self._kept}

    def _is_plain(self, text: str) -> bool:
        return len(text) < _SHORTEST or text in self._words or _PLAIN.fullmatch(text) is not None or _is_address(text)


def hide(text: str) -> str:
    """The text with the names of variables in place of their values."""
    _, pattern, shown = _current()
    if pattern is None:
        return text
    return pattern.sub(lambda found: shown.get(found[0].lower(), "***"), text)


def hide_json(value: object) -> object:
    """The JSON value with every text hidden, but for ids, names and closed sets of words."""
    return value if _current()[1] is None else _without(value)


def _without(value: object) -> object:
    match value:
        case str():
            return hide(value)
        case dict():
            return {key: one if key in _KEPT and isinstance(one, str) else _without(one) for key, one in value.items()}
        case list() | tuple():
            return [_without(one) for one in value]
        case _:
            return value


def _forms(value: str) -> Iterator[str]:
    """The value, its parts, and how it looks where it was escaped or normalized."""
    stripped = value.strip()
    whole = {
        value,
        stripped,
        value.encode("unicode_escape", "surrogatepass").decode(),
        json.dumps(value)[1:-1],
        quote(value, safe="", errors="surrogatepass"),
        quote(value, errors="surrogatepass"),
    }
    if "/" in value:
        whole.add(os.path.normpath(stripped))
    yield from whole
    yield from (part for part in _SEPARATORS.split(stripped) if len(part) >= _INSIDE_WORDS)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_interface(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _changed() -> None:
    global _latest  # noqa: PLW0603 - one process has one output
    _latest = next(_changes)


def _current() -> tuple[int, re.Pattern[str] | None, dict[str, str]]:
    global _compiled  # noqa: PLW0603 - as above
    while _compiled[0] != _latest:  # a file may be read in another thread meanwhile
        latest = _latest
        with _lock:
            values = {text: shown for one in list(_all) for text, shown in one.values().items()}
        _compiled = (latest, *_compile(values))
    return _compiled


def _compile(values: dict[str, str]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    if not values:
        return None, {}
    longest_first = sorted(values, key=len, reverse=True)
    pattern = re.compile("|".join(map(_piece, longest_first)), re.IGNORECASE)
    return pattern, {text.lower(): values[text] for text in reversed(longest_first)}


def _piece(text: str) -> str:
    inside = re.escape(text)
    return inside if len(text) >= _INSIDE_WORDS else rf"(?<![A-Za-z0-9]){inside}(?![A-Za-z0-9])"
