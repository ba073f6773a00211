"""Bytes -> YAML nodes with line and column, bounded and safe.

Any bytes at all give a `Node` or a `ConfigError`. PyYAML does the parsing and nothing else: what a scalar means is
decided here (YAML's core schema without its traps), so `8022:22`, `022`, `yes` and dates are text, and aliases, tags,
duplicate keys and deep nesting are refused where they stand. What is refused leaves a hole, around which the rest of
the file is judged all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import yaml

from reconciler.config.deadline import check
from reconciler.config.problem import ConfigError, ErrorCode, Place, Problem
from reconciler.config.syntax.nodes import Entry, Items, Node, Plain, Scalar, Table, invalid_node, is_invalid, is_null

MAX_BYTES = 1024 * 1024
TOO_LARGE = f"larger than {MAX_BYTES // 1024} KiB: split it into several files"
MAX_DEPTH = 24
MAX_KEY = 256
MAX_PROBLEMS = 100  # told of one file at a time: it can hold one every few bytes, and nobody mends more at once

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
_YAMLS_OWN = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(
    ["str", "int", "float", "bool", "null", "map", "seq", "set", "omap", "pairs", "binary", "timestamp", "merge"]
)
_INSTEAD = "use `defaults`, or write the value out; a value that begins with"
_AS_TEXT = ("!", f"{_YAMLS_OWN}str")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")  # no leading zero (octal), no colon (sexagesimal), no underscore
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_WORDS: dict[str, Plain] = {"": None, "~": None, "null": None, "true": True, "false": False}
_SHOWN_KEY = re.compile(r"[A-Za-z0-9._$-]{1,63}")
_QUOTED = re.compile(r"\b(handle|alias|anchor) '[^']*'")  # what the parser without libyaml shows of the file
_NO_SPACE = re.compile(r"\s*(?:- )?[\w-]+:(?=[^\s/])")
_FOREIGN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # to a terminal U+009B is an escape
_NAMES: dict[type[yaml.Event], str] = {yaml.MappingStartEvent: "a mapping", yaml.SequenceStartEvent: "a list"}


def read(data: bytes, file: str) -> tuple[Table, list[Problem]]:
    """The mapping at the top of the file, and what was refused in it.

    Raises `ConfigError` where there is none; code `unreadable` where nothing is in the file.
    """
    return _Reader(file).document(_text(data, file))


def _text(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        _refuse(Place(file), TOO_LARGE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, start = before.count(b"\n") + 1, before.rfind(b"\n") + 1
        column = len(before[start:].decode("utf-8", "replace")) + 1
        byte = data[error.start]
        _refuse(Place(file, line, column), f"byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")
    if found := _FOREIGN.search(text):
        before_text = text[: found.start()]
        line, start = before_text.count("\n") + 1, before_text.rfind("\n") + 1
        place = Place(file, line, found.start() - start + 1)
        _refuse(place, f"character U+{ord(found[0]):04X} does not belong in a YAML file: remove it")
    return text


def _refuse(place: Place, message: str, code: ErrorCode = ErrorCode.SYNTAX) -> NoReturn:
    raise ConfigError(Problem.at(place, message, code))


class _Reader:
    """Turns the events of one file into nodes. What can be read past is gathered in `problems`, up to a bound."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def document(self, text: str) -> tuple[Table, list[Problem]]:
        events = self._events(text)
        next(events)  # the stream starts
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            _refuse(Place(self.file), "empty: `targets: {}` says that there are none", ErrorCode.UNREADABLE)
        root = self._node(next(events), events, 0)
        next(events)  # the document ends
        after = next(events)
        is_more = not isinstance(after, yaml.StreamEndEvent)
        if is_more:
            self._wrong(after, "a second document begins here: put it into a file of its own")
        if isinstance(root, Scalar) and root.value is None and not self.problems:
            _refuse(Place(self.file), "empty: `targets: {}` says that there are none", ErrorCode.UNREADABLE)
        if not isinstance(root, Table) and not self.problems:
            place = Place(self.file, root.line, root.column)
            _refuse(place, "not a mapping: a file begins with `targets:`")
        if not isinstance(root, Table):
            raise ConfigError(*self.problems)
        return replace(root, partial=root.partial or is_more), self.problems

    def _events(self, text: str) -> Iterator[yaml.Event]:
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                check()
                yield event
        except yaml.MarkedYAMLError as error:
            place, message = _cause(error, text, self.file) or _said(error, text, self.file)
            raise ConfigError(*self.problems, Problem.at(place, f"not YAML: {message}", ErrorCode.SYNTAX)) from None
        except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
            # ValueError: an escape or a %YAML version beyond what Python's own types take.
            message = "not YAML: a directive, a number or an escape in it is out of range, or it is nested too deep"
            raise ConfigError(*self.problems, Problem.at(Place(self.file), message, ErrorCode.SYNTAX)) from error

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        line, column = _position(event)
        if depth > MAX_DEPTH:
            self._wrong(event, f"nested more than {MAX_DEPTH} deep")
            raise ConfigError(*self.problems)
        anchor = getattr(event, "anchor", None)
        if anchor and not isinstance(event, yaml.AliasEvent):
            self._wrong(event, f"anchors are not taken: {_INSTEAD} & is put in quotes")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            self._wrong(event, f"tags are not taken: {_instead_of_tag(tag)}")
        node = self._untagged(event, events, depth)
        # What a tag of YAML's own stands before means the same without it; any other's is for another program to say.
        return node if tag is None or tag == "!" or tag.startswith(_YAMLS_OWN) else invalid_node(line, column)

    def _untagged(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        line, column = _position(event)
        match event:
            case yaml.ScalarEvent():
                return self._scalar(event, line, column)
            case yaml.SequenceStartEvent():
                values = []
                while not isinstance(item := next(events), yaml.SequenceEndEvent):
                    values.append(self._node(item, events, depth + 1))
                return Items(tuple(values), line, column)
            case yaml.MappingStartEvent():
                return self._table(events, depth + 1, line, column)
            case _:
                self._wrong(event, f"aliases are not taken: {_INSTEAD} * is put in quotes")
                return invalid_node(line, column)

    def _table(self, events: Iterator[yaml.Event], depth: int, line: int, column: int) -> Table:
        entries: dict[str, Entry] = {}
        partial = False
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._node(event, events, depth)
            value = self._node(next(events), events, depth)
            name = self._name(key, event)
            if name is None or (name == "<<" and _is_refused(value)):
                partial = True
            elif (first := entries.get(name)) is None:
                entries[name] = Entry(name, value, key.line, key.column)
            else:
                shown = f"`{name}`" if _SHOWN_KEY.fullmatch(name) and not is_null(value) else "this key"
                self._wrong(event, f"{shown} stands here twice, first on line {first.line}: keep one")
                if isinstance(first.value, Table):  # the other one may say what this one lacks
                    entries[name] = replace(first, value=replace(first.value, partial=True))
        return Table(tuple(entries.values()), line, column, partial)

    def _name(self, key: Node, event: yaml.Event) -> str | None:
        """A key's text; None where it was refused. Which texts are names is for the schema to say."""
        if not isinstance(key, Scalar):
            self._wrong(event, f"{_NAMES.get(type(event), 'this')} cannot be a key: a key is text")
            return None
        if len(key.text) > MAX_KEY:
            self._wrong(event, f"a key has at most {MAX_KEY} characters")
            return None
        return None if is_invalid(key) else key.text

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Scalar:
        text = str(event.value)
        if found := _CONTROL.search(text):
            self._wrong(event, f"character U+{ord(found[0]):04X} does not belong in a value")
            return invalid_node(line, column)
        if not event.style and event.tag not in _AS_TEXT:  # plain: "" from the C parser, None from the other
            return Scalar(typed(text), text, line, column)
        return Scalar(text, text, line, column)

    def _wrong(self, event: yaml.Event, message: str) -> None:
        line, column = _position(event)
        self.problems.append(Problem.at(Place(self.file, line, column), message, ErrorCode.SYNTAX))
        if len(self.problems) > MAX_PROBLEMS:
            raise ConfigError(*self.problems)


def _is_refused(node: Node) -> bool:
    return is_invalid(node) or (isinstance(node, Items) and bool(node.values) and all(map(is_invalid, node.values)))


def typed(text: str) -> Plain:
    """What a plain (unquoted) scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _position(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def _instead_of_tag(tag: str) -> str:
    """Only a tag of YAML's own is shown: another may be a value without its quotes."""
    name = tag.removeprefix(_YAMLS_OWN)
    return f"remove !!{name}" if name in _KNOWN_TAGS else "put a value that begins with ! in quotes"


def _cause(error: yaml.MarkedYAMLError, text: str, file: str) -> tuple[Place, str] | None:
    """Where a mistake was made that the parser noticed only later, and what it is; None for any other."""
    begun, noticed = error.context_mark, error.problem_mark
    if begun is not None and "quoted scalar" in (error.context or ""):
        return Place(file, begun.line + 1, begun.column + 1), "this quote is not closed"
    lines = text.split("\n")
    if noticed is None or noticed.line >= len(lines):  # YAML ends lines at more than we do
        return None
    if "expected key" in (error.problem or "") and begun is not None:
        # A quote that is not closed takes in all up to the next one, whose own text then stands there bare.
        for number in range(begun.line, noticed.line):
            for quote in "\"'":
                if lines[number].count(quote) == 1:
                    return Place(file, number + 1, lines[number].index(quote) + 1), "this quote is not closed"
    above = lines[noticed.line - 1] if "mapping values are not allowed" in (error.problem or "") else ""
    found = _NO_SPACE.match(above) if noticed.line > 0 else None
    return (Place(file, noticed.line, found.end()), "a space is missing after this colon") if found else None


def _said(error: yaml.MarkedYAMLError, text: str, file: str) -> tuple[Place, str]:
    """The parser's complaint; in our words where people meet it every day."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Place(file), "it cannot be parsed"
    place = Place(file, mark.line + 1, mark.column + 1)
    problem = _QUOTED.sub(r"\1", error.problem or "it cannot be parsed")
    lines = text.split("\n")
    line = lines[place.line - 1] if 0 < place.line <= len(lines) else ""
    at = line[place.column - 1 : place.column]
    if "cannot start any token" in problem and at:
        tab = at == "\t"
        return place, "a tab cannot indent, use spaces" if tab else f"a value cannot begin with {at}, put it in quotes"
    if "mapping values are not allowed" in problem:
        return place, "a second `: ` on this line; put the value in quotes, or check the indentation"
    if "${" in line and "flow" in (error.context or ""):
        return place, "put ${…} in quotes where it stands between braces or brackets"
    begun = error.context_mark
    since = (
        f" (it begins at {begun.line + 1}:{begun.column + 1})" if begun is not None and begun.line < mark.line else ""
    )
    return place, f"{problem} {error.context}{since}" if error.context else problem
