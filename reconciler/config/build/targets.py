"""Builds `TargetSpec` from entries, and resolves the path to each server through other targets.

A jump host given by name brings the jump hosts of that target with it. A cycle is an error, and so is a path with too
many jump hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from reconciler.config.build.fields import Field, Fields
from reconciler.config.build.hops import connect_timeout, hop, warn_of_milliseconds
from reconciler.config.build.merge import TargetEntry, hop_fields
from reconciler.config.build.outbound import check_hosts, outbound, refuse_outbound
from reconciler.config.build.pasted_hosts import HoldsPasswordError, pasted
from reconciler.config.build.permissions import Permissions
from reconciler.config.build.secret_sources import Sources
from reconciler.config.diagnostics import Report
from reconciler.config.options import Options
from reconciler.config.problem import ErrorCode, Location
from reconciler.config.schema.document import words
from reconciler.config.schema.values import command, duration, interval_or_ms, number, some_time, switch, whole, word
from reconciler.config.schema.violations import did_you_mean, dotted, quoted, sentence
from reconciler.config.syntax.nodes import Items, Node, Scalar, Table
from reconciler.core.off import DISABLED
from reconciler.core.outbound import ANY_ADDRESS, Outbound
from reconciler.core.spec import Access, Hop, Reconnect, TargetSettings, TargetSpec

_MAX_COMPARED = 10_000  # names; beyond this, no suggestion is made
_MOST = 1_000_000_000
_MAX_HOPS = 16  # bounds the recursion that resolves a path


@dataclass(frozen=True, slots=True)
class _Path:
    """The path to a server: through `via`, outermost first. `timeouts` has one more, that of the server itself.

    `outbound` is for the first connection.
    """

    hop: Hop
    via: tuple[Hop, ...]
    timeouts: tuple[float, ...]
    proxy_command: tuple[str, ...]
    outbound: Outbound


class Targets:
    """Builds the targets of all files.

    definitions  the entries that define a target
    is_unsure    says whether a target may be defined in a part of a file that could not be parsed
    """

    def __init__(
        self,
        definitions: Mapping[str, TargetEntry],
        environ: Mapping[str, str],
        options: Options,
        report: Report,
        is_unsure: Callable[[str], bool],
    ) -> None:
        self.definitions = definitions
        self.environ = environ
        self.options = options
        self.report = report
        self.is_unsure = is_unsure
        self._paths: dict[str, _Path] = {}
        self._compared = 0  # comparisons of an unknown name with a target

    def build(self) -> Iterator[TargetSpec]:
        for name, entry in self.definitions.items():
            path = self._path(name, ())
            yield self._spec(name, self._fields(entry), path)

    def _spec(self, name: str, fields: Fields, path: _Path) -> TargetSpec:
        on_demand = fields.read("connect", word("always", "onDemand")) == "onDemand"
        idle = fields.read("idleTimeout", some_time)
        warn_of_milliseconds(fields, "keepaliveInterval")
        settings = TargetSettings(
            connect_timeouts=path.timeouts,
            dial_timeout=fields.read("dialTimeout", some_time),
            keepalive_interval=fields.read("keepaliveInterval", interval_or_ms),
            keepalive_count_max=fields.read("keepaliveCountMax", whole(0, _MOST)),
            handover_timeout=fields.read("handoverTimeout", duration),
            reconnect=self._reconnect(fields),
            log_level=fields.read("logLevel", word("debug", "info", "warning", "error")),
        )
        enabled = fields.read("enabled", switch)
        return TargetSpec(
            name=name,
            access=Access(path.hop, path.via, path.proxy_command, path.outbound),
            settings=settings,
            connections=fields.read("sshConnections", whole(1, 16)),
            on_demand=idle if on_demand else None,
            off=None if enabled else DISABLED,
        )

    def _fields(self, entry: TargetEntry) -> Fields:
        return Fields("target", entry.fields, entry.at, entry.table, self.report, entry.name)

    def _sources(self, entry: TargetEntry) -> Sources:
        return Sources(entry.document.directory, self.environ, self.options)

    def _reconnect(self, fields: Fields) -> Reconnect:
        nested = fields.nested("reconnect", "reconnect") or Fields(
            "reconnect", {}, fields.at, fields.table, self.report, fields.owner
        )
        initial = nested.read("initial", some_time)
        longest = nested.read("max", some_time)
        factor = nested.read("factor", number(1, 10))
        if longest < initial and "reconnect" in fields:
            nested.error(
                "max" if "max" in nested else "initial",
                "`max` is below `initial`: raise `max` or lower `initial`",
                ErrorCode.CONFLICT,
            )
        return Reconnect(initial, longest, factor)

    # --- the path to the server --------------------------------------------------------------------------------

    def _path(self, name: str, trail: tuple[str, ...]) -> _Path:
        if name not in self._paths:
            self._paths[name] = self._find_path(self.definitions[name], (*trail, name))
        return self._paths[name]

    def _find_path(self, entry: TargetEntry, trail: tuple[str, ...]) -> _Path:
        fields = self._fields(entry)
        via: dict[Hop, float] = {}
        proxy = self._proxy_command(fields)
        if proxy:
            Permissions.of(entry.document, self.options, self.report).judge_command(fields)
        first: Outbound | None = None
        for place, node in _jumps(fields, entry.name):
            before, last = self._jump(place, node, entry, trail, is_first=first is None)
            if last is None:
                continue
            first = first or last.outbound
            if last.proxy_command and via:
                message = "a target with `proxyCommand` can only be the first jump host: move it to the front"
                self.report.error(place, message, ErrorCode.CONFLICT)
            proxy = proxy or last.proxy_command
            for jump, timeout in (*before, (last.hop, last.timeouts[-1])):
                via.setdefault(jump, timeout)
            if len(via) > _MAX_HOPS:
                self._too_far(fields.place("jumpHosts" if "jumpHosts" in fields else "jumpHost"), entry.name)
                via.clear()  # a placeholder: the paths through this target are counted from here
                break
        own = hop(fields, self._sources(entry), self.options)
        start = self._outbound(fields, own, first, proxy)
        return _Path(own, tuple(via), (*via.values(), connect_timeout(fields)), proxy, start)

    def _outbound(self, fields: Fields, own: Hop, first: Outbound | None, proxy: tuple[str, ...]) -> Outbound:
        """Return how the first connection of a path is made. `first` is that of its first jump host."""
        given = outbound(fields)
        if first is not None:
            refuse_outbound(fields, given, "behind a jump host", "set it on the first jump host")
            return first
        if proxy:
            refuse_outbound(fields, given, "with `proxyCommand`, which makes the connection", "remove it")
            return ANY_ADDRESS
        check_hosts(fields, own.hosts, given)
        return given

    def _jump(
        self, place: Location, node: Node, entry: TargetEntry, trail: tuple[str, ...], *, is_first: bool
    ) -> tuple[tuple[tuple[Hop, float], ...], _Path | None]:
        """Return the hops before a jump host, and the jump host itself; None if it is invalid, which is reported."""
        match node:
            case Scalar() if node.unset:
                self.report.unset(place, node, entry.name, entry.table)
            case Scalar(value=str(name)):
                Permissions.of(entry.document, self.options, self.report).judge_use(place, name)
                if (path := self._named_jump(place, name, trail)) is not None:
                    return tuple(zip(path.via, path.timeouts[:-1], strict=True)), path
            case Table():
                fields = Fields(
                    "hop", hop_fields(node, place, entry, self.report), place, node, self.report, entry.name
                )
                if "host" not in fields and "hosts" not in fields:
                    self.report.error(place, "no host: add `host`", ErrorCode.MISSING)
                found = hop(fields, self._sources(entry), self.options)
                start = outbound(fields)
                if is_first:
                    check_hosts(fields, found.hosts, start)
                else:
                    refuse_outbound(fields, start, "behind another jump host", "set it on the first jump host")
                return (), _Path(found, (), (connect_timeout(fields),), (), start)
            case _:
                self.report.wrong_value(place, sentence(node, words("target", "jumpHost")))
        return (), None

    def _named_jump(self, place: Location, name: str, trail: tuple[str, ...]) -> _Path | None:
        if name in trail:
            cycle = " -> ".join((*trail[trail.index(name) :], name))
            self.report.error(place, f"cycle of jump hosts ({cycle}): remove one", ErrorCode.REFERENCE)
            return None
        if name not in self.definitions:
            if self.report.is_full(place.file) or self.is_unsure(name):
                return None  # a suggestion is slow to find among many targets
            self.report.error(place, self._no_target(name), ErrorCode.REFERENCE)
            return None
        if len(trail) > _MAX_HOPS and name not in self._paths:
            self._too_far(place, trail[0])
            return None
        path = self._path(name, trail)
        if name in self.report.broken:
            self.report.broken.setdefault(trail[-1], self.report.broken[name])
        return path

    def _no_target(self, name: str) -> str:
        try:
            written = _inline(name)
        except HoldsPasswordError:
            return "`jumpHost` holds a password: write {host: ..., user: ..., password: {file: ...}}"
        self._compared += len(self.definitions)
        similar = did_you_mean(name, self.definitions) if self._compared <= _MAX_COMPARED else ""
        hint = f'did you mean "{similar}"?' if similar else f"define it{written}"
        return f"unknown target {quoted(name)}: {hint}"

    def _too_far(self, place: Location, name: str) -> None:
        message = f"more than {_MAX_HOPS} jump hosts on the path to {name}: remove some"
        self.report.wrong_value(place, message, overrides_schema=True)

    def _proxy_command(self, fields: Fields) -> tuple[str, ...]:
        argv = fields.find("proxyCommand", command, ())
        if argv and not self.options.allow_commands:
            message = "running a program is not permitted: start with --allow-commands to permit it"
            fields.error("proxyCommand", message, ErrorCode.FORBIDDEN)
        return argv


def _inline(name: str) -> str:
    """Rewrite jump hosts in the notation of ssh, `user@host:port,...`, as fields. Raises HoldsPasswordError."""
    parts = name.split(",")
    found = [one.inline() for part in parts if (one := pasted(part)) is not None]
    if len(found) < len(parts):
        return ""
    return f", or write {found[0]}" if len(found) == 1 else f", or write `jumpHosts: [{', '.join(found)}]`"


def _jumps(fields: Fields, name: str) -> Iterator[tuple[Location, Node]]:
    """Yield the jump hosts as written, outermost first.

    `defaults` may name a target itself as a jump host: that target uses only the jump hosts before it.
    """
    field = fields.fields.get("jumpHosts") or fields.fields.get("jumpHost")
    if field is None:
        return
    for place, node in _listed(field):
        if field.inherited and isinstance(node, Scalar) and node.value == name:
            return
        yield place, node


def _listed(field: Field) -> Iterator[tuple[Location, Node]]:
    if field.name == "jumpHost" or not isinstance(field.node, Items):
        yield field.place, field.node
        return
    for index, node in enumerate(field.node.values):
        yield Location(field.place.file, node.line, node.column, dotted(field.place.path, index)), node
