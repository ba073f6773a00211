"""The content of a file as nodes with positions.

`yaml_reader.read` makes the nodes, `variables` expands their scalars, and later modules only read them. Nodes are
frozen: a file that did not change is the identical object from reload to reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_LONG = 16  # entries; a longer table has a dict for look-ups

Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value and its text as written.

    variables     the names of its variables, for messages: the value of a variable is never shown
    whole         the name of the variable that is the entire value, otherwise ""
    unset         the variables that have no value, so that the value of the node is unknown
    refused       those of `unset` for which an error has been reported
    written       the text before its variables were expanded; "" if it has none
    """

    value: Plain
    text: str
    line: int = 0
    column: int = 0
    variables: tuple[str, ...] = ()
    whole: str = ""
    unset: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    written: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple[Node, ...]
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its position, and its value."""

    key: str
    value: Node
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping with unique text keys, in the order of the file. `partial`: some of its content was rejected."""

    entries: tuple[Entry, ...]
    line: int = 0
    column: int = 0
    partial: bool = False
    _by_key: Mapping[str, Entry] | None = field(init=False, repr=False, compare=False)  # only for a long table

    def __post_init__(self) -> None:
        by_key = {entry.key: entry for entry in reversed(self.entries)} if len(self.entries) > _LONG else None
        object.__setattr__(self, "_by_key", by_key)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def entry(self, key: str) -> Entry | None:
        if self._by_key is not None:
            return self._by_key.get(key)
        return next((entry for entry in self.entries if entry.key == key), None)

    def get(self, key: str) -> Node | None:
        entry = self.entry(key)
        return entry.value if entry else None


Node = Scalar | Items | Table


def invalid_node(line: int, column: int) -> Scalar:
    """Return the placeholder for a rejected value. Its content is unknown, and an error has been reported."""
    return Scalar("", "", line, column, variables=("",), unset=("",), refused=("",))


def is_invalid(node: Node) -> bool:
    """Return True for a placeholder made by `invalid_node`."""
    return isinstance(node, Scalar) and node.refused == ("",)


def is_null(node: Node) -> bool:
    """Return True if the node is null: its key has no value."""
    return isinstance(node, Scalar) and node.value is None


def plain(node: Node) -> object:
    """Return the value as JSON, for the schema validator."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(value) for value in node.values]
        case Table():
            return {entry.key: plain(entry.value) for entry in node}


def made_of(value: object) -> Node:
    """Return the node of a JSON value that is in no file (a default of the schema)."""
    match value:
        case None | bool() | int() | float() | str():
            text = value if isinstance(value, str) else str(value).lower()
            return Scalar(value, text)
        case list():
            return Items(tuple(made_of(item) for item in value))
        case dict():
            return Table(tuple(Entry(str(key), made_of(item)) for key, item in value.items()))
        case _:
            raise TypeError(f"not a JSON value: {value!r}")
