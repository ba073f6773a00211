"""Values of environment variables that must not be shown: `hide` puts the variable's name in their place.

A configuration may put a variable into any text: a token into the path of a probe, a whole host name. The value is used
as it is, and it comes back from code that knows nothing of variables: the resolver, asyncssh, the standard error of a
proxy command. So the values do not remember where they came from. All text that leaves the process goes through `hide`:
log lines, the answers of both servers, metrics, and what commands print.

The search takes time in proportion to the text, however many values there are and however long they are: it runs on
the event loop, for each line of the log.

Not hidden, because they are no secrets and are needed to be useful: numbers of at most five digits (ports), durations,
rates, addresses and address blocks, `localhost`, true and false, the words that the file format and the messages
have, and names of targets and tunnels. Nor is a value of one or two characters, which is a part of every second word.
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
from dataclasses import dataclass
from urllib.parse import quote

_SHORTEST = 3  # characters of a value that is hidden,
_INSIDE_WORDS = 4  # and of one that is also hidden as a part of a word
_BEGINNING = 4  # characters by which a value is found
_PLAIN = re.compile(r"[0-9.]{1,5}|[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h|B/s|[kMG]B/s|[KMG]iB/s)|[0-9]{1,5}-[0-9]{1,5}")
_PLAIN_WORDS = frozenset({"true", "false", "null", "none", "localhost"})
# Words of every second message: replaced there, they would make it hard to read, and hide nothing.
_OWN_WORDS = (
    frozenset(("tunnel", "target", "hop", "link", "channel", "listener", "client", "connection", "destination"))
    | frozenset(("server", "socket", "address", "file", "port", "host", "key", "user", "name", "ssh", "tcp", "unix"))
    | frozenset(("local", "remote", "socks", "error", "warning", "info", "debug", "the", "and", "not"))
)
_SEPARATORS = re.compile(r"[:@\[\]\s]+")  # at which fields are taken apart: user@host, host:port, port:host:port
_START_OF_PATH = re.compile(r"(?:~[^/]*/|\.\./)+")  # becomes the path of a directory that the value does not name
_KEPT = frozenset(  # keys of JSON objects whose values are names and closed sets of words
    ("id", "target", "tunnel", "name", "subject", "type", "phase", "before", "reason", "action", "revision", "level")
)
_BY_THE_FILE = "labels"  # the key of JSON objects whose keys are the file's, whatever they are called

_lock = threading.Lock()
_all: weakref.WeakSet[Redactor] = weakref.WeakSet()
_changes = itertools.count(1)
_latest = 0


class Redactor:
    """The values that the files of one configuration name. They are hidden for as long as this object lives."""

    def __init__(self, words: Collection[str] = ()) -> None:
        """`words`: those of the file format, which are never hidden."""
        self._words = frozenset(words) | _PLAIN_WORDS | _OWN_WORDS
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


@dataclass(frozen=True, slots=True)
class _Search:
    """Finds values in a text, in small letters.

    beginnings    finds every place where the first four characters of a value stand, or a value of three
    by_beginning  for those: the values by their length, longest first, with what to show for each
    """

    beginnings: re.Pattern[str]
    by_beginning: dict[str, list[tuple[int, dict[str, str]]]]

    def replace(self, text: str) -> str:
        """The text with what is shown in place of the values. Values that overlap are replaced together."""
        small = _small(text)
        pieces: list[str] = []
        done = 0  # where what is not yet in the pieces begins
        position = 0
        while found := self.beginnings.search(small, position):
            start = found.start()
            position = start + 1
            length, shown = self._longest(small, start, found[0])
            if start + length > done:
                if start >= done or pieces[-1] != shown:  # a value that repeats itself overlaps itself
                    pieces += [text[done:start], shown]
                done = start + length
        return "".join((*pieces, text[done:])) if pieces else text

    def _longest(self, small: str, start: int, beginning: str) -> tuple[int, str]:
        for length, values in self.by_beginning[beginning]:
            if start + length > len(small):
                continue
            shown = values.get(small[start : start + length])
            if shown is not None and (length >= _INSIDE_WORDS or _is_word(small, start, start + length)):
                return length, shown
        return 0, ""


_searches: tuple[int, _Search | None] = (0, None)  # the search, and of which of the changes it is


def redact(text: str) -> str:
    """The text with the names of variables in place of their values."""
    search = _current()
    return text if search is None else search.replace(text)


def redact_json(value: object) -> object:
    """The JSON value with every text hidden, but for ids, names and closed sets of words."""
    return value if _current() is None else _without(value, _KEPT)


def _without(value: object, kept: frozenset[str]) -> object:
    match value:
        case str():
            return redact(value)
        case dict():
            return {
                key: one
                if key in kept and isinstance(one, str)
                else _without(one, frozenset() if key == _BY_THE_FILE else _KEPT)
                for key, one in value.items()
            }
        case list() | tuple():
            return [_without(one, kept) for one in value]
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
        path = os.path.normpath(stripped)
        whole |= {path, _START_OF_PATH.sub("", path)}
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


def _current() -> _Search | None:
    global _searches  # noqa: PLW0603 - as above
    while _searches[0] != _latest:  # a file may be read in another thread meanwhile
        latest = _latest
        with _lock:
            values = {text: shown for one in list(_all) for text, shown in one.values().items()}
        _searches = (latest, _search(values) if values else None)
    return _searches[1]


def _search(values: dict[str, str]) -> _Search:
    lengths: dict[str, dict[int, dict[str, str]]] = {}
    for text, shown in values.items():
        small = _small(text)
        lengths.setdefault(small[:_BEGINNING], {}).setdefault(len(small), {}).setdefault(small, shown)
    for beginning, found in lengths.items():  # of one place, one beginning is found: the longer one
        if len(beginning) > _SHORTEST and (shorter := lengths.get(beginning[:_SHORTEST])):
            found.update(shorter)
    by_beginning = {beginning: sorted(found.items(), reverse=True) for beginning, found in lengths.items()}
    return _Search(re.compile(_any_of(by_beginning)), by_beginning)


def _any_of(words: Collection[str]) -> str:
    """An expression for any of these words, the longest that fits: after each letter, only what may follow is tried."""
    by_first: dict[str, list[str]] = {}
    for word in words:
        if word:
            by_first.setdefault(word[0], []).append(word[1:])
    if not by_first:
        return ""
    branches = "|".join(re.escape(first) + _any_of(rest) for first, rest in by_first.items())
    return f"(?:{branches}){'?' if '' in words else ''}"


def _small(text: str) -> str:
    """The text in small letters, each at the place where it was."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(one if len(one) == 1 else letter for letter in text for one in (letter.lower(),))


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit of ASCII stands before or behind it."""
    return not any(one.isascii() and one.isalnum() for one in (text[start - 1 : start], text[end : end + 1]))
