"""A file's content as values that know where they stand.

`read` makes them, `variables` replaces scalars in them, everything after that reads them. They are frozen: a file
that did not change is the identical object from reload to reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_LONG = 16  # entries: more are looked up in a dict

Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value and its text as written.

    variables     the names in it, for messages: the value of a variable is never shown
    whole         the name of the variable that is all of the value, else ""
    unset         the names in it that have no value: what it says is not known here
    refused       those of them for which an error was told, so that nothing more is to be said
    written       the text before its variables were put in, "" where it has none
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
    """A key, where it stands, and its value."""

    key: str
    value: Node
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping: keys are text and differ, order is the file's. `partial`: more stands in it, which was refused."""

    entries: tuple[Entry, ...]
    line: int = 0
    column: int = 0
    partial: bool = False
    _by_key: Mapping[str, Entry] | None = field(init=False, repr=False, compare=False)  # of a long one

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
    """The place of something that was refused: what it says is not known, and an error about it was told."""
    return Scalar("", "", line, column, variables=("",), unset=("",), refused=("",))


def is_invalid(node: Node) -> bool:
    return isinstance(node, Scalar) and node.refused == ("",)


def is_null(node: Node) -> bool:
    """Whether a key has no value."""
    return isinstance(node, Scalar) and node.value is None


def plain(node: Node) -> object:
    """The value as JSON has it, for the schema validator."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(value) for value in node.values]
        case Table():
            return {entry.key: plain(entry.value) for entry in node}


def made_of(value: object) -> Node:
    """The node of a JSON value that stands in no file (a default of the schema)."""
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
