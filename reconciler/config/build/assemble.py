"""Builds `Desired` from documents: the targets and tunnels of all files, and every problem with them.

Pure, except that it checks whether the files named as secrets can be read. One pass finds every problem. A value that
could not be parsed is replaced by a placeholder, so use `desired` only if `errors` is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.config.build.fields import Fields
from reconciler.config.build.merge import Document, TargetEntry, definitions, entries_of
from reconciler.config.build.permissions import Permissions
from reconciler.config.build.targets import Targets
from reconciler.config.build.tunnels import BuiltTunnel, tunnels_of
from reconciler.config.diagnostics import Report
from reconciler.config.options import Options
from reconciler.config.problem import ErrorCode, Location, Problem
from reconciler.config.schema.unparsed_paths import UnparsedPaths, may_define, may_follow
from reconciler.core.addresses import Addresses, is_remote
from reconciler.core.off import UNSET_VARIABLE
from reconciler.core.spec import Desired, Listen, TargetSpec, TunnelSpec


@dataclass(frozen=True, slots=True)
class Assembled:
    """The result of one build.

    broken    maps a target, or the id of a tunnel, to the reason that it cannot be used although its file is valid (a
              variable is not set)
    places    maps a tunnel's id to the place of its definition
    """

    desired: Desired
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    broken: Mapping[str, str]
    overrides_schema: frozenset[tuple[str, int, int]] = frozenset()  # where an error here replaces the schema's
    not_permitted: frozenset[str] = frozenset()  # files that the policy refuses
    places: Mapping[str, Location] = field(default_factory=dict)


def assemble(
    documents: Sequence[Document],
    environ: Mapping[str, str],
    options: Options,
    already: Iterable[Problem] = (),
    *,
    incomplete: bool = False,
    newer: Collection[str] = (),
) -> Assembled:
    """Build the specs.

    `already` are the problems that the schema has reported. `incomplete` says that a file could not be read. A clash of
    a file in `newer` with one that is not is reported in the newer one.
    """
    report = Report(already)
    entries = [entry for document in documents for entry in entries_of(document, report)]
    for document in documents:
        Permissions.of(document, options, report).judge_file(document)
    for entry in entries:
        Permissions.of(entry.document, options, report).judge_target(entry)

    def is_unsure(name: str) -> bool:
        return any(may_define(document.root, document.gaps, name) for document in documents)

    defined = definitions(entries, report, incomplete=incomplete, is_unsure=is_unsure, newer=newer)
    targets = list(Targets(defined, environ, options, report, is_unsure).build())
    tunnels = list(
        _with_unique_ids(
            tunnel for entry in _in_order(entries) for tunnel in tunnels_of(entry, environ, options, report)
        )
    )
    by_age = sorted(tunnels, key=lambda tunnel: tunnel.at.file in newer)
    _check_names(by_age, report)
    _check_on_demand(tunnels, targets, defined, report, newer)
    off = {target.name for target in targets if target.off is not None}
    _check_addresses([one for one in by_age if one.spec.off is None and one.spec.target not in off], report)
    _check_port_files(by_age, report)
    desired = Desired.of(
        (replace(t, off=UNSET_VARIABLE) if t.name in report.broken else t for t in targets),
        (_without_unset(tunnel, report.broken) for tunnel in tunnels),
    )
    gaps = {document.file: document.gaps for document in documents}
    errors, warnings = _without_consequences(report.errors, gaps), _without_consequences(report.warnings, gaps)
    if options.strict:
        errors, warnings = errors + warnings, ()
    return Assembled(
        desired,
        errors,
        warnings,
        dict(report.broken),
        frozenset(report.overrides_schema),
        frozenset(report.not_permitted),
        {tunnel.spec.id: tunnel.at for tunnel in tunnels},
    )


def _without_consequences(problems: Iterable[Problem], gaps: Mapping[str, UnparsedPaths]) -> tuple[Problem, ...]:
    return tuple(p for p in problems if not may_follow(p, gaps.get(p.file, frozenset())))


def _in_order(entries: Iterable[TargetEntry]) -> list[TargetEntry]:
    """Group the entries by target, the defining file first, so that its tunnels keep a name used twice."""
    by_target: dict[str, list[TargetEntry]] = {}
    for entry in entries:
        by_target.setdefault(entry.name, []).append(entry)
    return [entry for group in by_target.values() for entry in sorted(group, key=lambda e: not e.defines)]


def _with_unique_ids(tunnels: Iterable[BuiltTunnel]) -> Iterator[BuiltTunnel]:
    """Number the tunnels whose default names are equal because their ports are unknown."""
    found: Counter[str] = Counter()
    for tunnel in tunnels:
        spec = tunnel.spec
        if not tunnel.named and not tunnel.sound:
            found[spec.id] += 1
            if (number := found[spec.id]) > 1:
                spec = replace(spec, id=f"{spec.id}-{number}", name=f"{spec.name}-{number}")
        yield replace(tunnel, spec=spec)


def _without_unset(tunnel: BuiltTunnel, broken: dict[str, str]) -> TunnelSpec:
    """Return the tunnel, off if a variable in it is not set. Then `broken` gets its id in place of its place."""
    spec = tunnel.spec
    if (why := broken.pop(str(tunnel.at), "")) == "":
        return spec
    broken[spec.id] = why
    return replace(spec, off=spec.off or UNSET_VARIABLE)


def _check_names(tunnels: Iterable[BuiltTunnel], report: Report) -> None:
    first: dict[str, BuiltTunnel] = {}
    for tunnel in tunnels:
        if not tunnel.named and not tunnel.sound:
            continue
        other = first.setdefault(tunnel.spec.id, tunnel)
        if other is tunnel:
            continue
        if tunnel.named or other.named:
            message = f"tunnel {tunnel.spec.id} is defined twice, first at {other.at}: give this one another name"
        else:
            message = f"the default name {tunnel.spec.id} is taken by the tunnel at {other.at}: set `name`"
        report.error(tunnel.at, message, ErrorCode.DUPLICATE, other.at.file)


def _check_on_demand(
    tunnels: Iterable[BuiltTunnel],
    targets: Iterable[TargetSpec],
    defined: Mapping[str, TargetEntry],
    report: Report,
    newer: Collection[str],
) -> None:
    on_demand = {target.name for target in targets if target.on_demand is not None}
    for tunnel in tunnels:
        if tunnel.spec.target in on_demand and is_remote(tunnel.spec.listen):
            entry = defined[tunnel.spec.target]
            fields = Fields("target", entry.fields, entry.at, entry.table, report, entry.name)
            where = fields.place("connect")
            message = (
                f"a remote tunnel needs `connect: always`, but `connect` is onDemand at {where}: change one of them"
            )
            at, other = tunnel.at, where
            if where.file in newer and at.file not in newer:
                message = f"`connect` is onDemand, but the remote tunnel at {at} needs always: change one of them"
                at, other = other, at
            report.error(at, message, ErrorCode.CONFLICT, other.file)


def _check_addresses(tunnels: Iterable[BuiltTunnel], report: Report) -> None:
    taken = Addresses(())
    first: dict[Listen, BuiltTunnel] = {}
    for tunnel in tunnels:
        listen = tunnel.spec.listen
        if not tunnel.sound:
            continue
        if (conflicting := taken.met(listen)) is not None:
            other = first[conflicting]
            message = (
                f"listens on {listen}, which conflicts with {other.spec.listen} of {other.spec.id} at {other.at}: "
                "change one of them"
            )
            report.error(tunnel.at, message, ErrorCode.CONFLICT, other.at.file)
        taken.add(listen)
        first.setdefault(listen, tunnel)


def _check_port_files(tunnels: Iterable[BuiltTunnel], report: Report) -> None:
    first: dict[str, BuiltTunnel] = {}
    for tunnel in tunnels:
        path = tunnel.spec.policy.port_file
        if path and (other := first.setdefault(path, tunnel)) is not tunnel:
            message = f"port file {path} is also used by {other.spec.id} at {other.at}: change one of them"
            report.error(tunnel.at, message, ErrorCode.CONFLICT, other.at.file)
