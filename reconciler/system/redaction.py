"""Hides the values of environment variables in all output: `redact` replaces each value by the variable's name.

A configuration may use a variable in any text: a token in the path of a probe, or a whole host name. Its value appears
also in text of code that knows nothing of variables: the resolver, asyncssh, a proxy command. So values are not marked
where they are read. Instead, all text that leaves the process passes through `redact`: log lines, responses of the
HTTP and control servers, metrics, and the output of commands.

The search runs on the event loop for each log line. Its time depends on the length of the text, not on the number or
length of the values.

Some values stay visible, because they are not secret and the output needs them: numbers of at most five digits (ports),
durations, rates, addresses and address blocks, `localhost`, true and false, words of the file format and of messages,
names of targets and tunnels. Values of one or two characters stay visible too, because most words contain them.
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

_SHORTEST = 3  # shortest value that is hidden, in characters
_INSIDE_WORDS = 4  # shortest value that is also hidden inside a word
_BEGINNING = 4  # length of the prefix that the search looks for
_PLAIN = re.compile(r"[0-9.]{1,5}|[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h|B/s|[kMG]B/s|[KMG]iB/s)|[0-9]{1,5}-[0-9]{1,5}")
_PLAIN_WORDS = frozenset({"true", "false", "null", "none", "localhost"})
# Common words of messages: hiding them would hide no secret and make the messages hard to read.
_OWN_WORDS = (
    frozenset(("tunnel", "target", "hop", "link", "channel", "listener", "client", "connection", "destination"))
    | frozenset(("server", "socket", "address", "file", "port", "host", "key", "user", "name", "ssh", "tcp", "unix"))
    | frozenset(("local", "remote", "socks", "error", "warning", "info", "debug", "the", "and", "not"))
)
_SEPARATORS = re.compile(r"[:@\[\]\s]+")  # separators of fields: user@host, host:port, port:host:port
_START_OF_PATH = re.compile(r"(?:~[^/]*/|\.\./)+")  # a prefix that expands to another text when the path is resolved
_KEPT = frozenset(  # keys of JSON objects whose values are names or words of a closed set
    ("id", "target", "tunnel", "name", "subject", "type", "phase", "before", "reason", "action", "revision", "level")
)
_USER_KEYS = "labels"  # the key of a JSON object whose own keys come from the file

_lock = threading.Lock()
_all: weakref.WeakSet[Redactor] = weakref.WeakSet()
_changes = itertools.count(1)  # numbers the changes of hidden values
_latest = 0  # the number of the latest change


class Redactor:
    """The values that the files of one configuration use. They are hidden as long as this object lives."""

    def __init__(self, words: Collection[str] = ()) -> None:
        """`words` are the words of the file format, which are never hidden."""
        self._words = frozenset(words) | _PLAIN_WORDS | _OWN_WORDS
        self._values: dict[str, str] = {}  # text to hide -> text to show
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
        """Do not hide these names of targets and tunnels."""
        kept = frozenset(name for name in names if name in self._values)
        if kept != self._kept:
            self._kept = kept
            _changed()

    def values(self) -> dict[str, str]:
        """Return a map from each hidden text to the text shown instead."""
        return {text: shown for text, shown in self._values.items() if text not in self._kept}

    def _is_plain(self, text: str) -> bool:
        return len(text) < _SHORTEST or text in self._words or _PLAIN.fullmatch(text) is not None or _is_address(text)


@dataclass(frozen=True, slots=True)
class _Search:
    """Finds values in a text, ignoring case.

    beginnings    matches the first four characters of each value, or a whole value of three
    by_beginning  for each of those: the values by length, longest first, with the text to show for each
    """

    beginnings: re.Pattern[str]
    by_beginning: dict[str, list[tuple[int, dict[str, str]]]]

    def replace(self, text: str) -> str:
        """Return the text with each value replaced. Overlapping values are replaced together."""
        lowered = _lowered(text)
        pieces: list[str] = []
        done = 0  # the text up to here is in the pieces
        position = 0
        while found := self.beginnings.search(lowered, position):
            start = found.start()
            position = start + 1
            length, shown = self._longest(lowered, start, found[0])
            if start + length > done:
                if start >= done or pieces[-1] != shown:  # a repetitive value can overlap itself
                    pieces += [text[done:start], shown]
                done = start + length
        return "".join((*pieces, text[done:])) if pieces else text

    def _longest(self, lowered: str, start: int, beginning: str) -> tuple[int, str]:
        for length, values in self.by_beginning[beginning]:
            if start + length > len(lowered):
                continue
            shown = values.get(lowered[start : start + length])
            if shown is not None and (length >= _INSIDE_WORDS or _is_word(lowered, start, start + length)):
                return length, shown
        return 0, ""


_searches: tuple[int, _Search | None] = (0, None)  # the latest change that the search includes, and the search


def redact(text: str) -> str:
    """Return the text with the values of variables replaced by the variables' names."""
    search = _current()
    return text if search is None else search.replace(text)


def redact_json(value: object) -> object:
    """Return the JSON value with every string redacted, except ids, names and words of a closed set."""
    return value if _current() is None else _redact_json(value, _KEPT)


def _redact_json(value: object, kept: frozenset[str]) -> object:
    match value:
        case str():
            return redact(value)
        case dict():
            return {
                key: one
                if key in kept and isinstance(one, str)
                else _redact_json(one, frozenset() if key == _USER_KEYS else _KEPT)
                for key, one in value.items()
            }
        case list() | tuple():
            return [_redact_json(one, kept) for one in value]
        case _:
            return value


def _forms(value: str) -> Iterator[str]:
    """Yield the value, its parts, and its escaped and normalized forms."""
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
    while _searches[0] != _latest:  # another thread may load a file meanwhile
        latest = _latest
        with _lock:
            values = {text: shown for one in list(_all) for text, shown in one.values().items()}
        _searches = (latest, _search(values) if values else None)
    return _searches[1]


def _search(values: dict[str, str]) -> _Search:
    lengths: dict[str, dict[int, dict[str, str]]] = {}
    for text, shown in values.items():
        lowered = _lowered(text)
        lengths.setdefault(lowered[:_BEGINNING], {}).setdefault(len(lowered), {}).setdefault(lowered, shown)
    for beginning, found in lengths.items():  # the pattern finds only the longer beginning at a position
        if len(beginning) > _SHORTEST and (shorter := lengths.get(beginning[:_SHORTEST])):
            found.update(shorter)
    by_beginning = {beginning: sorted(found.items(), reverse=True) for beginning, found in lengths.items()}
    return _Search(re.compile(_any_of(by_beginning)), by_beginning)


def _any_of(words: Collection[str]) -> str:
    """Return a regular expression for the longest of these words that matches.

    It is a prefix tree: after each character, only the characters that may follow are tried.
    """
    by_first: dict[str, list[str]] = {}
    for word in words:
        if word:
            by_first.setdefault(word[0], []).append(word[1:])
    if not by_first:
        return ""
    branches = "|".join(re.escape(first) + _any_of(rest) for first, rest in by_first.items())
    return f"(?:{branches}){'?' if '' in words else ''}"


def _lowered(text: str) -> str:
    """Return the text in lower case, with every character at its old index."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(one if len(one) == 1 else letter for letter in text for one in (letter.lower(),))


def _is_word(text: str, start: int, end: int) -> bool:
    """Return True if no ASCII letter or digit stands directly before or after the range."""
    return not any(one.isascii() and one.isalnum() for one in (text[start - 1 : start], text[end : end + 1]))
