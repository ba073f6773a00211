"""Merges several files: which entry defines a target, and which entries add tunnels, each with its file's defaults.

Input: documents (the nodes of a file). Output: `TargetEntry` values by target name, and errors for duplicates, which
name both places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.config.build.fields import Field, fields_of, nearest
from reconciler.config.diagnostics import Report
from reconciler.config.problem import ErrorCode, Location
from reconciler.config.schema.document import definition
from reconciler.config.schema.unparsed_paths import UnparsedPaths
from reconciler.config.schema.violations import did_you_mean, dotted, is_shown_key
from reconciler.config.syntax.nodes import Items, Table

HOST_GROUPS = (("host", "hosts"), ("connectTimeout", "connectionTimeout"))
TARGET_GROUPS = (*HOST_GROUPS, ("jumpHost", "jumpHosts", "proxyCommand"), ("knownHosts", "hostKeys"))
_EXCLUSIVE = (*HOST_GROUPS, ("jumpHost", "jumpHosts", "proxyCommand"))
_ADDITION_FIELDS = ("tunnels", "type")  # fields that an entry without a host may have
_HOST_FIELDS = ("host", "hosts")


@dataclass(frozen=True, slots=True)
class Document:
    """The content of one file.

    directory  the directory that relative paths start from
    digest     the hash of the bytes
    gaps       the paths of values that could not be parsed
    """

    file: str
    directory: str
    root: Table
    digest: str
    gaps: UnparsedPaths = frozenset()


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """The entry of one target in one file, with the defaults of that file for inline jump hosts and tunnels."""

    name: str
    document: Document
    at: Location
    table: Table
    fields: Mapping[str, Field]
    target_defaults: Mapping[str, Field]
    tunnel_defaults: Mapping[str, Field]
    tunnels: tuple[tuple[Location, Table], ...]

    @property
    def defines(self) -> bool:
        """Return True if the entry defines the target: it says where the server is."""
        return any(name in self.fields for name in _HOST_FIELDS)


def entries_of(document: Document, report: Report) -> Iterator[TargetEntry]:
    """Yield the targets of one file. Entries that the schema has rejected are skipped."""
    targets = document.root.get("targets")
    if not isinstance(targets, Table):
        return
    target_defaults = _defaults(document, "target")
    tunnel_defaults = _defaults(document, "tunnel")
    if "tunnels" in target_defaults:
        place = target_defaults["tunnels"].place
        report.error(place, "tunnels are not inherited: move them to a target", ErrorCode.CONFLICT)
    exclusive(target_defaults, _EXCLUSIVE, report)
    for entry in targets:
        if not isinstance(entry.value, Table) or not is_shown_key(entry.key):
            continue
        at = Location(document.file, entry.line, entry.column, dotted("targets", entry.key))
        own = fields_of(entry.value, at)
        exclusive(own, _EXCLUSIVE, report)
        yield TargetEntry(
            name=entry.key,
            document=document,
            at=at,
            table=entry.value,
            fields=nearest(own, target_defaults, TARGET_GROUPS),
            target_defaults=target_defaults,
            tunnel_defaults=tunnel_defaults,
            tunnels=tuple(_tunnels(own.get("tunnels"))),
        )


def hop_fields(table: Table, at: Location, entry: TargetEntry, report: Report) -> dict[str, Field]:
    """Return the fields of an inline jump host: its own and `defaults.target`, none of the target."""
    own = fields_of(table, at)
    exclusive(own, HOST_GROUPS, report)
    known = definition("hop")["properties"]
    inherited = {name: f for name, f in entry.target_defaults.items() if name in known and name not in _HOST_FIELDS}
    return nearest(own, inherited, TARGET_GROUPS)


def exclusive(own: Mapping[str, Field], groups: Iterable[tuple[str, ...]], report: Report) -> None:
    """Report fields of one group that are set together."""
    for group in groups:
        present = [own[name] for name in group if name in own]
        for field in present[1:]:
            message = f"`{present[0].name}` and `{field.name}` exclude each other: keep one"
            report.error(field.place, message, ErrorCode.CONFLICT)


def definitions(
    entries: Sequence[TargetEntry],
    report: Report,
    *,
    incomplete: bool,
    is_unsure: Callable[[str], bool],
    newer: Collection[str],
) -> dict[str, TargetEntry]:
    """Return the entry that defines each target.

    `incomplete` says that a file could not be read, so that a definition may be missing. `is_unsure` says whether a
    target may be defined in a part of a file that could not be parsed. Of two definitions, the one in a file of `newer`
    is the error.
    """
    found: dict[str, TargetEntry] = {}
    additions: list[TargetEntry] = []
    for entry in sorted(entries, key=lambda entry: entry.document.file in newer):
        if not entry.defines:
            additions.append(entry)
        elif (first := found.setdefault(entry.name, entry)) is not entry:
            message = f"target {entry.name} is defined twice, first at {first.at}: keep one, or remove `host` here"
            report.error(entry.at, message, ErrorCode.DUPLICATE, first.at.file)
    for addition in additions:
        if addition.name not in found and is_unsure(addition.name):
            continue
        _check_addition(addition, found.get(addition.name), report, incomplete=incomplete)
    return {entry.name: found[entry.name] for entry in entries if entry.name in found}


def _check_addition(entry: TargetEntry, defined: TargetEntry | None, report: Report, *, incomplete: bool) -> None:
    if defined is None:
        if any(
            did_you_mean(e.key, _HOST_FIELDS) for e in entry.table if e.key not in definition("target")["properties"]
        ):
            return  # reported as an unknown key
        hint = " (one could not be read)" if incomplete else ""
        message = f"no host: add `host`; no other file{hint} defines target {entry.name}"
        report.error(entry.at, message, ErrorCode.MISSING)
        return
    for field in entry.fields.values():
        if not field.inherited and field.name not in _ADDITION_FIELDS:
            message = (
                f"`{field.name}` is not allowed without `host`: move it to the definition of the target at {defined.at}"
            )
            report.error(field.place, message, ErrorCode.CONFLICT, defined.at.file)


def _defaults(document: Document, kind: str) -> dict[str, Field]:
    defaults = document.root.get("defaults")
    entry = defaults.entry(kind) if isinstance(defaults, Table) else None
    if entry is None or not isinstance(entry.value, Table):
        return {}
    place = Location(document.file, entry.line, entry.column, f"defaults.{kind}")
    return fields_of(entry.value, place, inherited=True)


def _tunnels(field: Field | None) -> Iterator[tuple[Location, Table]]:
    if field is None or not isinstance(field.node, Items):
        return
    for index, node in enumerate(field.node.values):
        if isinstance(node, Table):
            place = Location(field.place.file, node.line, node.column, dotted(field.place.path, index))
            yield place, node
