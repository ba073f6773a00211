"""Builds `TunnelSpec` from the tunnels of an entry: the listener, the destination, and the policy.

Short forms and the aliases of a socks tunnel (`host`, `port`) are replaced by the long fields first, so that later code
knows one spelling. The meaning of a field depends on the type of the tunnel. A field that does not apply to the type is
an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from reconciler.config.build.fields import Field, Fields, fields_of, nearest
from reconciler.config.build.merge import TargetEntry
from reconciler.config.build.permissions import Permissions
from reconciler.config.build.policy import policy
from reconciler.config.build.secret_sources import Sources
from reconciler.config.diagnostics import Report
from reconciler.config.options import Options
from reconciler.config.problem import ErrorCode, Location, WarningCode
from reconciler.config.schema.document import Words
from reconciler.config.schema.short_forms import long_fields
from reconciler.config.schema.values import (
    MAX_PORT,
    InvalidValueError,
    filled,
    host,
    mode,
    name,
    port,
    ports,
    switch,
    word,
)
from reconciler.config.schema.violations import sentence
from reconciler.config.syntax.nodes import Node, Scalar
from reconciler.core.off import DISABLED
from reconciler.core.rules import metadata
from reconciler.core.spec import (
    FarTcp,
    FarUnix,
    Listen,
    LocalTcp,
    LocalUnix,
    NearTcp,
    NearUnix,
    RemoteTcp,
    RemoteUnix,
    Route,
    Socks,
    TunnelSpec,
)

_SHORT = ("local", "remote", "socks")
_GROUPS = (("localPort", "localSocket"), ("remotePort", "remoteSocket"))
_SOCKS_ALIASES = {"host": "localHost", "port": "localPort"}
# The types of tunnels that have the field. A field that is not listed applies to all types.
_TYPES_WITH_FIELD = {
    "remoteHost": ("local", "remote"),
    "remotePort": ("local", "remote"),
    "remoteSocket": ("local", "remote"),
    "mode": ("local", "socks"),
    "group": ("local", "socks"),
    "onConflict": ("remote",),
    "auth": ("socks",),
    "allowDestinations": ("socks",),
    "denyDestinations": ("socks",),
    "health": ("local", "remote"),
    "host": ("socks",),
    "port": ("socks",),
}
_INVALID_PORT = Scalar(1, "1")  # the placeholder for the ports of an invalid short form
_UNSET = "unset"  # in a default name, for an address that depends on an unset variable
_PORT_TO_DIAL = Words("destination port", "a whole number from 1 to 65535", limits=(1, MAX_PORT))
_PORT_OF_SERVER = Words("server port", "a whole number from 0 to 65535, where 0 lets the server choose")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class BuiltTunnel:
    """A tunnel and its place in the file.

    named     the name is given in the file
    sound     the listening address is the one in the file, not a placeholder for an invalid or unset value
    """

    spec: TunnelSpec
    at: Location
    named: bool
    sound: bool


def tunnels_of(
    entry: TargetEntry, environ: Mapping[str, str], options: Options, report: Report
) -> Iterator[BuiltTunnel]:
    """Yield the tunnels of one target in one file."""
    sources = Sources(entry.document.directory, environ, options)
    permissions = Permissions.of(entry.document, options, report)
    default_kind = _kind_of(entry.tunnel_defaults)
    inherited = _spelled_out(entry.tunnel_defaults, default_kind, report)
    for at, table in entry.tunnels:
        given = fields_of(table, at)
        own = _spelled_out(given, _kind_of(given) or default_kind, report)
        kind_field = own.get("type") or inherited.get("type")
        fields = Fields("tunnel", nearest(own, inherited, _GROUPS), at, table, report, str(at))
        fields.invalid_fields |= {name for name, field in fields.fields.items() if field.node is _INVALID_PORT}
        kind = fields.find("type", word(*_SHORT), "")
        if not kind:
            if kind_field is None:
                message = (
                    "no type: add `type: local`, `remote` or `socks`, or use a short form such as `local: 5432:db:5432`"
                )
                report.error(at, message, ErrorCode.MISSING)
            continue
        built = _Builder(entry.name, fields, kind, sources, options).build()
        permissions.judge_tunnel(fields, built.spec)
        yield built


def _kind_of(given: Mapping[str, Field]) -> str:
    """Return the type that these fields set, by `type` or by a short form; "" for none."""
    node = given["type"].node if "type" in given else None
    if isinstance(node, Scalar):
        return str(node.value)
    return next((short for short in _SHORT if short in given), "")


def _spelled_out(given: Mapping[str, Field], kind: str, report: Report) -> dict[str, Field]:
    """Replace short forms and the aliases of socks by the long fields. `kind` is the type, own or inherited."""
    fields = dict(given)
    shorts = [fields.pop(form) for form in _SHORT if form in fields]
    for short in shorts[1:]:
        message = f"`{shorts[0].name}` and `{short.name}` exclude each other: make two tunnels of them"
        report.error(short.place, message, ErrorCode.CONFLICT)
    for short in shorts[:1]:
        _spell_short(short, fields, report)
    if kind == "socks":
        for alias, long in _SOCKS_ALIASES.items():
            field = fields.pop(alias, None)
            if field is None:
                continue
            if long in fields:
                message = f"`{alias}` is an alias of `{long}`, which is also given: keep one"
                report.error(field.place, message, ErrorCode.CONFLICT)
            else:
                fields[long] = replace(field, name=long)
    return fields


def _spell_short(short: Field, fields: dict[str, Field], report: Report) -> None:
    try:
        expanded = long_fields(short.name, short.node)
    except InvalidValueError as wrong:
        Fields("tunnel", {short.name: short}, short.place, short.beside, report, "").wrong(short.name, wrong)
        expanded = {"type": Scalar(short.name, short.name), **dict.fromkeys(_ports_of(short.name), _INVALID_PORT)}
    for field, node in expanded.items():
        if field not in fields:
            fields[field] = replace(short, name=field, node=node)
        elif not _same(fields[field].node, node):
            report.error(fields[field].place, _conflict_with_short(short, fields[field]), ErrorCode.CONFLICT)


def _conflict_with_short(short: Field, other: Field) -> str:
    """Return why the field conflicts with the short form."""
    if other.name == "type" and isinstance(other.node, Scalar) and other.node.value in _SHORT:
        return f"type is {other.node.value}, but `{short.name}` makes a {short.name} tunnel: remove one of them"
    return f"`{short.name}` already sets this: remove one of them"


def _ports_of(kind: str) -> tuple[str, ...]:
    return ("localPort",) if kind == "socks" else ("localPort", "remotePort")


def _same(one: Node, other: Node) -> bool:
    return isinstance(one, Scalar) and isinstance(other, Scalar) and one.value == other.value


class _Builder:
    def __init__(self, target: str, fields: Fields, kind: str, sources: Sources, options: Options) -> None:
        self.fields = fields
        self.kind = kind
        self.sources = sources
        self.options = options
        self.target = target
        fields.variant = kind

    def build(self) -> BuiltTunnel:
        self._check_fields()
        listen, route = self._listen_and_route()
        own_name = self._own_name()
        enabled = self.fields.read("enabled", switch)
        side = "remote" if self.kind == "remote" else "local"
        sound = self.fields.invalid_fields.isdisjoint({f"{side}Host", f"{side}Port", f"{side}Socket"})
        called = own_name or f"{self.kind}-{self._default_name(listen, side) if sound else _UNSET}"
        spec = TunnelSpec(
            id=f"{self.target}/{called}",
            target=self.target,
            name=called,
            listen=listen,
            route=route,
            policy=policy(self.fields, self.kind, listen, self.sources, self.options),
            off=None if enabled else DISABLED,
        )
        return BuiltTunnel(spec, self.fields.at, bool(own_name), sound)

    def _own_name(self) -> str:
        node = self.fields.node("name")
        if isinstance(node, Scalar) and node.variables:
            message = "a name cannot contain a variable, because names are shown in logs and metrics: write it out"
            self.fields.report.wrong_value(self.fields.place("name"), message, overrides_schema=True)
            return ""
        return self.fields.find("name", name, "")

    def _default_name(self, listen: Listen, side: str) -> str:
        """Return the default name. Names are shown in logs and metrics, so it never holds the value of a variable."""
        node = self.fields.node(f"{side}Socket") if isinstance(listen, LocalUnix | RemoteUnix) else None
        if isinstance(node, Scalar) and node.variables and node.text.rstrip("/").rpartition("/")[2] not in node.written:
            return "socket"
        return _default_name(listen)

    def _check_fields(self) -> None:
        """Report own fields that do not apply to this type. Inherited ones are ignored."""
        for field, kinds in _TYPES_WITH_FIELD.items():
            if self.fields.is_own(field) and self.kind not in kinds:
                message = f"a {self.kind} tunnel has no `{field}`: remove it, or use type {' or '.join(kinds)}"
                self.fields.error(field, message, ErrorCode.CONFLICT)
        for side in ("local", "remote"):
            self._check_side(side)

    def _check_side(self, side: str) -> None:
        socket = f"{side}Socket"
        for tcp in (f"{side}Port", f"{side}Host"):
            if self.fields.is_own(socket) and self.fields.is_own(tcp):
                message = f"`{tcp}` and `{socket}` exclude each other: keep one"
                self.fields.error(tcp, message, ErrorCode.CONFLICT)
        listens_there = side == ("remote" if self.kind == "remote" else "local")
        if socket not in self.fields and listens_there:
            for of_socket in ("mode", "group"):
                if self.fields.is_own(of_socket) and self.kind != "remote":
                    self.fields.error(
                        of_socket,
                        f"`{of_socket}` requires `{socket}`: add it, or remove `{of_socket}`",
                        ErrorCode.CONFLICT,
                    )
        if listens_there and socket in self.fields and self.fields.is_own("portFile"):
            self.fields.error("portFile", "a unix socket has no port to write: remove `portFile`", ErrorCode.CONFLICT)

    def _listen_and_route(self) -> tuple[Listen, Route]:
        match self.kind:
            case "local":
                return self._local_listen(), self._far()
            case "remote":
                return self._remote_listen(), self._near()
            case _:
                return self._local_listen(), Socks(self.target)

    def _local_listen(self) -> Listen:
        if "localSocket" in self.fields:
            return LocalUnix(
                self.fields.find("localSocket", self.sources.path, "/unknown"),
                self.fields.read("mode", mode),
                self.fields.find("group", filled, ""),
            )
        self._need("local", "0 for any free port")
        first, last = self.fields.find("localPort", ports, (0, 0))
        return LocalTcp(self.fields.read("localHost", host), first, last)

    def _remote_listen(self) -> Listen:
        if "remoteSocket" in self.fields:
            return RemoteUnix(self.target, self.fields.find("remoteSocket", filled, "/unknown"))
        self._need("remote", "0 for a port that the server chooses")
        return RemoteTcp(
            self.target, self.fields.read("remoteHost", host), self.fields.find("remotePort", _one_or_any, 0)
        )

    def _far(self) -> Route:
        if "remoteSocket" in self.fields:
            return FarUnix(self.target, self.fields.find("remoteSocket", filled, "/unknown"))
        self._need("remote", "the port to dial from the server")
        return FarTcp(self.target, self._host("remoteHost"), self.fields.find("remotePort", _dialled, 1))

    def _near(self) -> Route:
        if "localSocket" in self.fields:
            return NearUnix(self.fields.find("localSocket", self.sources.path, "/unknown"))
        self._need("local", "the port to dial from this machine")
        return NearTcp(self._host("localHost"), self.fields.find("localPort", _dialled, 1))

    def _host(self, field: str) -> str:
        """Return the destination host. One that depends on an unset variable is returned as written."""
        node = self.fields.node(field)
        found = self.fields.read(field, host)
        if kind := metadata.kind_of_text(found):
            message = f"the destination is {kind}: add `x-allow: [metadata-destination]` if this is intended"
            place, beside = self.fields.place(field), self.fields.beside(field)
            self.fields.report.refuse(place, message, WarningCode.METADATA_DESTINATION, *beside)
        return node.text if isinstance(node, Scalar) and node.unset else found

    def _need(self, side: str, meaning: str) -> None:
        if f"{side}Port" not in self.fields:
            message = f"no {side} port: add `{side}Port` ({meaning}) or `{side}Socket`"
            self.fields.report.error(self.fields.at, message, ErrorCode.MISSING)
            self.fields.invalid_fields.add(f"{side}Port")


def _dialled(node: Node) -> int:
    try:
        return port(node)
    except InvalidValueError:
        raise InvalidValueError(sentence(node, _PORT_TO_DIAL)) from None


def _one_or_any(node: Node) -> int:
    first, last = ports(node)
    if first != last:
        raise InvalidValueError(sentence(node, _PORT_OF_SERVER))
    return first


def _default_name(listen: Listen) -> str:
    match listen:
        case LocalTcp(first=first, last=last):
            return str(first) if first == last else f"{first}-{last}"
        case RemoteTcp(port=number):
            return str(number)
        case LocalUnix(path=path) | RemoteUnix(path=path):
            last_part = path.rstrip("/").rpartition("/")[2].lower()
            return _NOT_IN_NAMES.sub("-", last_part)[:50] or "socket"
