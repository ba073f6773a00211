"""The effective fields of one target, jump host or tunnel: its own, then the file's defaults, then the schema's.

`Fields.read` and `Fields.find` turn a field into a value. They take the nearest definition and parse it. If the value
is invalid they report a problem with its place and return a placeholder, so that one pass finds every problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from reconciler.config.deadline import check
from reconciler.config.diagnostics import Report
from reconciler.config.problem import ErrorCode, Location
from reconciler.config.schema.document import Schema, default, property_of, resolved, words_in
from reconciler.config.schema.values import InvalidValueError, UnknownDirectoryError, UnsetVariableError
from reconciler.config.schema.violations import choices_in, dotted, sentence
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table

_T = TypeVar("_T")
_Absent = TypeVar("_Absent")

_ADDED_TO_DEFAULTS = ("deny", "denyDestinations")  # a target or tunnel can add rules, but remove none
_MERGED_WITH_DEFAULTS = ("labels", "reconnect", "algorithms", "health")


@dataclass(frozen=True, slots=True)
class Field:
    """A field as written. `beside` is the mapping that contains it; `inherited` says that it comes from `defaults`."""

    name: str
    node: Node
    place: Location
    beside: Table
    inherited: bool = False


def fields_of(table: Table, place: Location, *, inherited: bool = False) -> dict[str, Field]:
    """Return the fields of one mapping, without the `x-` keys."""
    return {
        entry.key: Field(entry.key, entry.value, _place_of(entry, place), table, inherited)
        for entry in table
        if not entry.key.startswith("x-")
    }


def _place_of(entry: Entry, place: Location) -> Location:
    node = entry.value
    line, column = (entry.line, entry.column) if isinstance(node, Table) else (node.line, node.column)
    return Location(place.file, line, column, dotted(place.path, entry.key))


def nearest(
    own: Mapping[str, Field], defaults: Mapping[str, Field], alternatives: Iterable[tuple[str, ...]]
) -> dict[str, Field]:
    """Return the own fields and those defaults that they do not replace. A field also replaces its alternatives."""
    hidden = {name for group in alternatives if any(name in own for name in group) for name in group}
    merged = dict(own)
    for name, field in defaults.items():
        if name in own:
            merged[name] = replace(own[name], node=_joined(name, own[name].node, field.node))
        elif name not in hidden:
            merged[name] = field
    return merged


def _joined(name: str, own: Node, inherited: Node) -> Node:
    if name in _ADDED_TO_DEFAULTS and isinstance(own, Items) and isinstance(inherited, Items):
        return replace(own, values=inherited.values + own.values)
    if name in _MERGED_WITH_DEFAULTS and isinstance(own, Table) and isinstance(inherited, Table):
        return replace(own, entries=own.entries + tuple(e for e in inherited if own.get(e.key) is None))
    return own


class Fields:
    """The fields of one target, jump host, tunnel or nested mapping.

    `kind` names its definition in the schema, and `at` is its place. `owner` is what cannot be used if a variable in it
    is not set: the name of a target, or the place of a tunnel.
    """

    def __init__(self, kind: str, fields: Mapping[str, Field], at: Location, table: Table, report: Report, owner: str):
        self.kind = kind
        self.fields = fields
        self.at = at
        self.table = table
        self.report = report
        self.owner = owner
        self.invalid_fields: set[str] = set()  # fields with a placeholder value
        self.variant = ""  # the type of a tunnel, for defaults that depend on it

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def is_own(self, name: str) -> bool:
        return name in self.fields and not self.fields[name].inherited

    def place(self, name: str) -> Location:
        return self.fields[name].place if name in self.fields else self.at

    def node(self, name: str) -> Node | None:
        return self.fields[name].node if name in self.fields else default(self.kind, name, self.variant)

    def read(self, name: str, parse: Callable[[Node], _T]) -> _T:
        """Parse a field that has a default in the schema. The default replaces an invalid or unset value."""
        by_default = default(self.kind, name, self.variant)
        if by_default is None:
            raise LookupError(f"{self.kind}.{name} has no default in the schema")
        return self.find(name, parse, parse(by_default))

    def find(self, name: str, parse: Callable[[Node], _T], absent: _Absent) -> _T | _Absent:
        """Parse a field without a default. `absent` replaces a value that is missing, invalid or unset."""
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
            self.report.unset(self._where(name, unset.node), unset.node, self.owner, *self.beside(name))
        except UnknownDirectoryError as unknown:
            self.invalid_fields.add(name)
            where = self._where(name, unknown.node)
            self.report.unknown_directory(where, str(unknown), self.owner, *self.beside(name))
        return absent

    def wrong(self, name: str, wrong: InvalidValueError) -> None:
        """Report an invalid value, with the message of `wrong` or else the one made from the schema."""
        subschema = property_of(self.kind, name)
        for index, item in wrong.items.items():
            if item.node is not None:
                where = self._where(name, item.node)
                self._report(
                    replace(where, path=dotted(where.path, index)), item.node, item.message, subschema.get("items", {})
                )
        node = wrong.node or self.node(name)
        if not wrong.items and node is not None:
            self._report(self._where(name, node), node, wrong.message, subschema)

    def _report(self, where: Location, node: Node, message: str, subschema: Schema) -> None:
        if message and not (isinstance(node, Scalar) and node.variables):  # `message` may show the value
            self.report.wrong_value(where, message, overrides_schema=True)
        else:
            self.report.wrong_value(where, sentence(node, words_in(resolved(subschema)), choices_in(subschema)))

    def _where(self, name: str, node: Node) -> Location:
        place = self.place(name)
        return replace(place, line=node.line, column=node.column) if isinstance(node, Scalar) and node.line else place

    def beside(self, name: str) -> tuple[Table, ...]:
        """Return the mappings whose `x-allow` may waive a warning about the field."""
        return (self.fields[name].beside, self.table) if name in self.fields else (self.table,)

    def error(self, name: str, message: str, code: ErrorCode, other: str = "") -> None:
        self.report.error(self.place(name), message, code, other)

    def nested(self, name: str, kind: str) -> Fields | None:
        """Return the fields of a field that is a mapping; None if it is not one."""
        node = self.node(name)
        if not isinstance(node, Table):
            return None
        return Fields(kind, fields_of(node, self.place(name)), self.place(name), node, self.report, self.owner)
