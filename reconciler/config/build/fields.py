"""The effective fields of one target, jump host or tunnel: its own, then its file's defaults, then the schema's.

`Fields.read` is the one way from a field to a value: it finds the nearest, parses it, and turns what is wrong into a
problem with its place, going on with a stand-in, so that one pass finds everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from reconciler.config.deadline import check
from reconciler.config.diagnostics import Report
from reconciler.config.problem import ErrorCode, Place
from reconciler.config.schema.document import Schema, default, property_of, resolved, words_in
from reconciler.config.schema.values import InvalidValueError, UnsetVariableError
from reconciler.config.schema.violations import choices_in, dotted, sentence
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table

_T = TypeVar("_T")
_Absent = TypeVar("_Absent")

_ADDING = ("deny", "denyDestinations")
_MERGING = ("labels", "reconnect", "algorithms", "health")


@dataclass(frozen=True, slots=True)
class Field:
    """A field as given. `beside` is the mapping that it stands in, `inherited` says that this is `defaults`."""

    name: str
    node: Node
    place: Place
    beside: Table
    inherited: bool = False


def fields_of(table: Table, place: Place, *, inherited: bool = False) -> dict[str, Field]:
    """The fields of one mapping, extensions left out."""
    return {
        entry.key: Field(entry.key, entry.value, _place_of(entry, place), table, inherited)
        for entry in table
        if not entry.key.startswith("x-")
    }


def _place_of(entry: Entry, place: Place) -> Place:
    node = entry.value
    line, column = (entry.line, entry.column) if isinstance(node, Table) else (node.line, node.column)
    return Place(place.file, line, column, dotted(place.path, entry.key))


def nearest(
    own: Mapping[str, Field], defaults: Mapping[str, Field], alternatives: Iterable[tuple[str, ...]]
) -> dict[str, Field]:
    """Own fields first, then the defaults that they do not replace. A field replaces its alternatives too."""
    hidden = {name for group in alternatives if any(name in own for name in group) for name in group}
    merged = dict(own)
    for name, field in defaults.items():
        if name in own:
            merged[name] = replace(own[name], node=_joined(name, own[name].node, field.node))
        elif name not in hidden:
            merged[name] = field
    return merged


def _joined(name: str, own: Node, inherited: Node) -> Node:
    if name in _ADDING and isinstance(own, Items) and isinstance(inherited, Items):
        return replace(own, values=inherited.values + own.values)
    if name in _MERGING and isinstance(own, Table) and isinstance(inherited, Table):
        return replace(own, entries=own.entries + tuple(e for e in inherited if own.get(e.key) is None))
    return own


class Fields:
    """`kind` names the schema's definition; `at` is where the thing itself stands; `target` is whose it is."""

    def __init__(self, kind: str, fields: Mapping[str, Field], at: Place, table: Table, report: Report, target: str):
        self.kind = kind
        self.fields = fields
        self.at = at
        self.table = table
        self.report = report
        self.target = target
        self.invalid_fields: set[str] = set()  # fields with a stand-in
        self.variant = ""  # the type of a tunnel, for defaults that hang on it

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def is_own(self, name: str) -> bool:
        return name in self.fields and not self.fields[name].inherited

    def place(self, name: str) -> Place:
        return self.fields[name].place if name in self.fields else self.at

    def node(self, name: str) -> Node | None:
        return self.fields[name].node if name in self.fields else default(self.kind, name, self.variant)

    def read(self, name: str, parse: Callable[[Node], _T]) -> _T:
        """A field that has a default in the schema; the default stands in where the value is wrong or unset."""
        by_default = default(self.kind, name, self.variant)
        if by_default is None:
            raise LookupError(f"{self.kind}.{name} has no default in the schema")
        return self.find(name, parse, parse(by_default))

    def find(self, name: str, parse: Callable[[Node], _T], absent: _Absent) -> _T | _Absent:
        """A field without a default; `absent` also where the value is wrong or hangs on an unset variable."""
        check()
        node = self.node(name)
        if node is None:
            return absent
        try:
            return parse(node)
        except InvalidValueError as wrong:
            self.invalid_fields.add(name)
            self.wrong(name, wrong)
        except UnsetVariableError as unset:
            self.invalid_fields.add(name)
            self.report.unset(self._where(name, unset.node), unset.node, self.target, *self.beside(name))
        return absent

    def wrong(self, name: str, wrong: InvalidValueError) -> None:
        """Say what is wrong: in the words of `wrong`, or else in the schema's."""
        subschema = property_of(self.kind, name)
        for index, item in wrong.items.items():
            if item.node is not None:
                where = self._where(name, item.node)
                self._say(
                    replace(where, path=dotted(where.path, index)), item.node, item.message, subschema.get("items", {})
                )
        node = wrong.node or self.node(name)
        if not wrong.items and node is not None:
            self._say(self._where(name, node), node, wrong.message, subschema)

    def _say(self, where: Place, node: Node, message: str, subschema: Schema) -> None:
        if message and not (isinstance(node, Scalar) and node.variables):  # `message` may show the value
            self.report.wrong_value(where, message, overrides_schema=True)
        else:
            self.report.wrong_value(where, sentence(node, words_in(resolved(subschema)), choices_in(subschema)))

    def _where(self, name: str, node: Node) -> Place:
        place = self.place(name)
        return replace(place, line=node.line, column=node.column) if isinstance(node, Scalar) and node.line else place

    def beside(self, name: str) -> tuple[Table, ...]:
        """The mappings whose `x-allow` may waive a warning about the field."""
        return (self.fields[name].beside, self.table) if name in self.fields else (self.table,)

    def error(self, name: str, message: str, code: ErrorCode, other: str = "") -> None:
        self.report.error(self.place(name), message, code, other)

    def nested(self, name: str, kind: str) -> Fields | None:
        """A field that is a mapping, as fields of its own."""
        node = self.node(name)
        if not isinstance(node, Table):
            return None
        return Fields(kind, fields_of(node, self.place(name)), self.place(name), node, self.report, self.target)
