"""Reads YAML: bytes to nodes with line and column, within bounds.

Any bytes give a `Node` or a `ConfigError`. PyYAML only produces events. This module decides what a scalar means: it
follows YAML's core schema, but `8022:22`, `022`, `yes` and dates are text. Aliases, tags, duplicate keys and deep
nesting are rejected where they occur. A rejected value leaves a placeholder, so that the rest of the file is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import yaml

from reconciler.config.deadline import check
from reconciler.config.problem import ConfigError, ErrorCode, Location, Problem
from reconciler.config.syntax.nodes import Entry, Items, Node, Plain, Scalar, Table, invalid_node, is_invalid, is_null

MAX_BYTES = 1024 * 1024
TOO_LARGE = f"larger than {MAX_BYTES // 1024} KiB: split it into several files"
MAX_DEPTH = 24
MAX_KEY = 256
MAX_PROBLEMS = 100  # of one file, reported at a time: a file can have one every few bytes

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if libyaml is installed
_YAML_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(
    ["str", "int", "float", "bool", "null", "map", "seq", "set", "omap", "pairs", "binary", "timestamp", "merge"]
)
_INSTEAD = "use `defaults` or write the value out; quote a value that begins with"
_AS_TEXT = ("!", f"{_YAML_TAG}str")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")  # no leading zero (octal), no colon (sexagesimal), no underscore
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_WORDS: dict[str, Plain] = {"": None, "~": None, "null": None, "true": True, "false": False}
_SHOWN_KEY = re.compile(r"[A-Za-z0-9._$-]{1,63}")
_QUOTED = re.compile(r"\b(handle|alias|anchor) '[^']*'")  # text of the file in messages of the parser without libyaml
_NO_SPACE = re.compile(r"\s*(?:- )?[\w-]+:(?=[^\s/])")
_FOREIGN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # to a terminal U+009B is an escape
_NAMES: dict[type[yaml.Event], str] = {yaml.MappingStartEvent: "a mapping", yaml.SequenceStartEvent: "a list"}


def read(data: bytes, file: str) -> tuple[Table, list[Problem]]:
    """Return the mapping at the top of the file, and the problems found in it.

    Raises `ConfigError` if there is no such mapping, with code `unreadable` if the file is empty.
    """
    return _Reader(file).document(_text(data, file))


def _text(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        _refuse(Location(file), TOO_LARGE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, start = before.count(b"\n") + 1, before.rfind(b"\n") + 1
        column = len(before[start:].decode("utf-8", "replace")) + 1
        byte = data[error.start]
        _refuse(Location(file, line, column), f"byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")
    if found := _FOREIGN.search(text):
        before_text = text[: found.start()]
        line, start = before_text.count("\n") + 1, before_text.rfind("\n") + 1
        place = Location(file, line, found.start() - start + 1)
        _refuse(place, f"character U+{ord(found[0]):04X} is not allowed in a YAML file: remove it")
    return text


def _refuse(place: Location, message: str, code: ErrorCode = ErrorCode.SYNTAX) -> NoReturn:
    raise ConfigError(Problem.at(place, message, code))


class _Reader:
    """Turns the events of one file into nodes. Problems that do not stop it go to `problems`, up to a limit."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def document(self, text: str) -> tuple[Table, list[Problem]]:
        events = self._events(text)
        next(events)  # the stream starts
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            _refuse(Location(self.file), "empty file: write `targets: {}` for no targets", ErrorCode.UNREADABLE)
        root = self._node(next(events), events, 0)
        next(events)  # the document ends
        after = next(events)
        is_more = not isinstance(after, yaml.StreamEndEvent)
        if is_more:
            self._wrong(after, "second YAML document: move it to a file of its own")
        if isinstance(root, Scalar) and root.value is None and not self.problems:
            _refuse(Location(self.file), "empty file: write `targets: {}` for no targets", ErrorCode.UNREADABLE)
        if not isinstance(root, Table) and not self.problems:
            place = Location(self.file, root.line, root.column)
            _refuse(place, "not a mapping: expected a mapping with `targets:`")
        if not isinstance(root, Table):
            raise ConfigError(*self.problems)
        return replace(root, partial=root.partial or is_more), self.problems

    def _events(self, text: str) -> Iterator[yaml.Event]:
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                check()
                yield event
        except yaml.MarkedYAMLError as error:
            place, message = _cause(error, text, self.file) or _description(error, text, self.file)
            raise ConfigError(*self.problems, Problem.at(place, f"invalid YAML: {message}", ErrorCode.SYNTAX)) from None
        except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
            # ValueError: an escape or a %YAML version beyond the range of Python's types.
            message = "invalid YAML: a directive, a number or an escape is out of range, or the nesting is too deep"
            raise ConfigError(*self.problems, Problem.at(Location(self.file), message, ErrorCode.SYNTAX)) from error

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        line, column = _position(event)
        if depth > MAX_DEPTH:
            self._wrong(event, f"nested more than {MAX_DEPTH} levels deep: use fewer levels")
            raise ConfigError(*self.problems)
        anchor = getattr(event, "anchor", None)
        if anchor and not isinstance(event, yaml.AliasEvent):
            self._wrong(event, f"anchors are not supported: {_INSTEAD} &")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            self._wrong(event, f"tags are not supported: {_instead_of_tag(tag)}")
        node = self._untagged(event, events, depth)
        # A value with a standard YAML tag means the same without it. The meaning of one with another tag is unknown.
        return node if tag is None or tag == "!" or tag.startswith(_YAML_TAG) else invalid_node(line, column)

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
                self._wrong(event, f"aliases are not supported: {_INSTEAD} *")
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
                shown = f" `{name}`" if _SHOWN_KEY.fullmatch(name) and not is_null(value) else ""
                self._wrong(event, f"duplicate key{shown}, first on line {first.line}: keep one")
                if isinstance(first.value, Table):  # the other one may hold a key that this one lacks
                    entries[name] = replace(first, value=replace(first.value, partial=True))
        return Table(tuple(entries.values()), line, column, partial)

    def _name(self, key: Node, event: yaml.Event) -> str | None:
        """Return the text of a key, or None if it was rejected. The schema decides which texts are valid names."""
        if not isinstance(key, Scalar):
            self._wrong(event, f"{_NAMES.get(type(event), 'this')} cannot be a key: expected text")
            return None
        if len(key.text) > MAX_KEY:
            self._wrong(event, f"key too long: expected at most {MAX_KEY} characters")
            return None
        return None if is_invalid(key) else key.text

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Scalar:
        text = str(event.value)
        if found := _CONTROL.search(text):
            self._wrong(event, f"character U+{ord(found[0]):04X} is not allowed in a value: remove it")
            return invalid_node(line, column)
        if not event.style and event.tag not in _AS_TEXT:  # plain: "" from libyaml, None from the Python parser
            return Scalar(typed(text), text, line, column)
        return Scalar(text, text, line, column)

    def _wrong(self, event: yaml.Event, message: str) -> None:
        line, column = _position(event)
        self.problems.append(Problem.at(Location(self.file, line, column), message, ErrorCode.SYNTAX))
        if len(self.problems) > MAX_PROBLEMS:
            raise ConfigError(*self.problems)


def _is_refused(node: Node) -> bool:
    return is_invalid(node) or (isinstance(node, Items) and bool(node.values) and all(map(is_invalid, node.values)))


def typed(text: str) -> Plain:
    """Return the value of a plain (unquoted) scalar."""
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
    """Return the advice about a tag. Only a standard YAML tag is shown: another one may be an unquoted secret."""
    name = tag.removeprefix(_YAML_TAG)
    return f"remove !!{name}" if name in _KNOWN_TAGS else "quote a value that begins with !"


def _cause(error: yaml.MarkedYAMLError, text: str, file: str) -> tuple[Location, str] | None:
    """Return the place and the description of a mistake that the parser notices only later; None for others."""
    begun, noticed = error.context_mark, error.problem_mark
    if begun is not None and "quoted scalar" in (error.context or ""):
        return Location(file, begun.line + 1, begun.column + 1), "unclosed quote"
    lines = text.split("\n")
    if noticed is None or noticed.line >= len(lines):  # YAML has more line separators
        return None
    if "expected key" in (error.problem or "") and begun is not None:
        # An unclosed quote ends at the next quote, and the text after that one is then unquoted.
        for number in range(begun.line, noticed.line):
            for quote in "\"'":
                if lines[number].count(quote) == 1:
                    return Location(file, number + 1, lines[number].index(quote) + 1), "unclosed quote"
    above = lines[noticed.line - 1] if "mapping values are not allowed" in (error.problem or "") else ""
    found = _NO_SPACE.match(above) if noticed.line > 0 else None
    return (Location(file, noticed.line, found.end()), "missing space after this colon") if found else None


def _description(error: yaml.MarkedYAMLError, text: str, file: str) -> tuple[Location, str]:
    """Return the place and the message of the parser, reworded for common mistakes."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Location(file), "cannot be parsed"
    place = Location(file, mark.line + 1, mark.column + 1)
    problem = _QUOTED.sub(r"\1", error.problem or "cannot be parsed")
    lines = text.split("\n")
    line = lines[place.line - 1] if 0 < place.line <= len(lines) else ""
    at = line[place.column - 1 : place.column]
    if "cannot start any token" in problem and at:
        tab = at == "\t"
        return place, "tab in the indentation: use spaces" if tab else f"a value cannot begin with {at}: quote it"
    if "mapping values are not allowed" in problem:
        return place, "second `: ` on this line: quote the value or check the indentation"
    if "${" in line and "flow" in (error.context or ""):
        return place, "unquoted ${…} between braces or brackets: quote it"
    begun = error.context_mark
    since = f" (begins at {begun.line + 1}:{begun.column + 1})" if begun is not None and begun.line < mark.line else ""
    return place, f"{problem} {error.context}{since}" if error.context else problem
