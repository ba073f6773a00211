"""Adds items to a list in a file, and keeps every other character: comments, layout, line ends.

Input: the bytes of a file, the path of a mapping in it, a key of that mapping, and the items. Output: the new bytes.
The positions of the nodes give a few places where the items may go. The first one is used for which the reader finds
the expected content in the result, so an edit never changes the meaning of anything else.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reconciler.config.problem import ConfigError
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table, plain
from reconciler.config.syntax.yaml_reader import read

_LINE_ENDS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # those that the line numbers of nodes count
_BEFORE_ITEM = re.compile(r" *- +")

Path = tuple[str | int, ...]


class CannotEditError(Exception):
    """The items cannot be added safely. The message says why."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """Text to insert at an offset, and the list that results."""

    offset: int
    text: str
    result: tuple[str, ...]


def find(root: Table, path: Path) -> Node | None:
    """Return the node at a path of keys and indices, or None."""
    node: Node | None = root
    for step in path:
        if isinstance(node, Table) and isinstance(step, str):
            node = node.get(step)
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.values):
            node = node.values[step]
        else:
            return None
    return node


def lines_of(table: Table, text: str, key: str, items: Sequence[str]) -> str:
    """Return the list in the style and at the indentation of the mapping, to paste into it."""
    if _is_flow(table, _Text(text)):
        return f"{_flow_entry(table, _Text(text), key, items)},"
    return _block_entry(" " * (table.entries[0].column - 1), key, items, "\n").rstrip("\n")


def with_items(data: bytes, file: str, path: Path, key: str, items: Sequence[str]) -> bytes:
    """Return the content with the items at the end of the list `key` of the mapping at `path`.

    If there is no such list, it is created. Raises CannotEditError, and ConfigError if the content cannot be read.
    """
    root, problems = read(data, file)
    if problems:
        raise ConfigError(*problems)
    table = find(root, path)
    if not isinstance(table, Table) or not table.entries:
        raise CannotEditError("there is no such mapping")
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    text = data.removeprefix(mark).decode()
    for edit in _edits(table, _Text(text), key, tuple(items)):
        new = mark + (text[: edit.offset] + edit.text + text[edit.offset :]).encode()
        if _is_as_expected(new, file, _changed(plain(root), path, key, edit.result)):
            return new
    raise CannotEditError("its layout has no place where a line can be added without changing anything else")


def _is_as_expected(data: bytes, file: str, expected: object) -> bool:
    try:
        root, problems = read(data, file)
    except ConfigError:
        return False
    return not problems and plain(root) == expected


def _changed(content: object, path: Path, key: str, result: tuple[str, ...]) -> object:
    """Put this list at the path, and return the content. It is changed in place: `plain` has made it for this call."""
    inner = content
    for step in path:
        inner = inner[step]  # type: ignore[index]  # `find` has followed the same path
    assert isinstance(inner, dict)
    inner[key] = list(result)
    return content


class _Text:
    """A text with the offsets of its lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(found.end() for found in _LINE_ENDS.finditer(text))]
        found = _LINE_ENDS.search(text)
        self.line_end = found[0] if found else "\n"

    def offset(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column - 1

    def line(self, number: int) -> str:
        return self.text[self.starts[number - 1] : self.after(number)]

    def after(self, line: int) -> int:
        """Return the offset of the line after this one."""
        return self.starts[line] if line < len(self.starts) else len(self.text)

    def at(self, node: Node | Entry) -> str:
        """Return the character at the position of a node."""
        offset = self.offset(node.line, node.column)
        return self.text[offset : offset + 1]


def _edits(table: Table, text: _Text, key: str, items: tuple[str, ...]) -> Iterator[_Edit]:
    """Yield the possible edits, the preferred ones first."""
    match table.get(key):
        case None if _is_flow(table, text):
            yield _within_brackets(table, text, f"{_flow_entry(table, text, key, items)},", items)
        case None:
            entry = _block_entry(" " * (table.entries[0].column - 1), key, items, text.line_end)
            for line in _lines_to_follow(table):
                yield _after(text, line, entry, items)
            for one in table.entries:
                yield _Edit(text.offset(one.line, 1), entry, items)
        case Items(values) as found if text.at(found) == "[":
            yield _within_brackets(found, text, ", ".join(map(_quoted, items)) + ",", (*items, *_texts(values)))
        case Items(values) if values:
            before = text.line(values[-1].line)[: values[-1].column - 1]
            if _BEFORE_ITEM.fullmatch(before):
                lines = "".join(f"{before}{item}{text.line_end}" for item in items)
                yield _after(text, values[-1].line, lines, (*_texts(values), *items))
        case _:
            pass


def _texts(values: Sequence[Node]) -> tuple[str, ...]:
    return tuple(value.text for value in values if isinstance(value, Scalar))


def _lines_to_follow(table: Table) -> list[int]:
    """Return the lines after which a new key may come: that of `host` first."""
    ordered = sorted(table.entries, key=lambda entry: entry.key not in ("host", "hosts"))
    return [entry.line for entry in ordered if not isinstance(entry.value, Table)]


def _after(text: _Text, line: int, new: str, result: tuple[str, ...]) -> _Edit:
    offset = text.after(line)
    has_end = _LINE_ENDS.search(text.line(line)) is not None
    return _Edit(offset, new if has_end else text.line_end + new.removesuffix(text.line_end), result)


def _within_brackets(node: Node, text: _Text, new: str, result: tuple[str, ...]) -> _Edit:
    offset = text.offset(node.line, node.column) + 1
    space = "" if text.text[offset : offset + 1].isspace() else " "
    return _Edit(offset, f"{new}{space}", result)


def _is_flow(table: Table, text: _Text) -> bool:
    return text.at(table) == "{"


def _flow_entry(table: Table, text: _Text, key: str, items: Sequence[str]) -> str:
    name = _quoted(key) if text.at(table.entries[0]) == '"' else key  # a file in JSON stays JSON
    return f"{name}: [{', '.join(map(_quoted, items))}]"


def _block_entry(indent: str, key: str, items: Sequence[str], line_end: str) -> str:
    return "".join(f"{line}{line_end}" for line in [f"{indent}{key}:", *(f"{indent}  - {item}" for item in items)])


def _quoted(text: str) -> str:
    return f'"{text}"'
