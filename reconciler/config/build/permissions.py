"""Reports what the policy (`--policy`) does not permit in a file.

Effective values are judged, not their spelling: short forms, defaults, variables and inherited values make no
difference. A value that depends on a variable that is not set is unknown, so it is not judged; its target or tunnel
is off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reconciler.config.build.fields import Fields
from reconciler.config.build.merge import Document, TargetEntry
from reconciler.config.build.secret_sources import resolves_into
from reconciler.config.deadline import check
from reconciler.config.diagnostics import Report
from reconciler.config.options import Options
from reconciler.config.problem import Location, PolicyCode
from reconciler.config.schema.values import shown_duration
from reconciler.config.schema.violations import dotted
from reconciler.config.syntax.nodes import Items, Node, Scalar, Table
from reconciler.core.rules.access import DestinationRule, parse_rule
from reconciler.core.rules.file_policy import FileRule, Glob, PermittedPlaces, TypePolicy, is_match
from reconciler.core.secret import FromEnv, FromFile, Source
from reconciler.core.spec import (
    AgentLogin,
    FarTcp,
    FarUnix,
    Hop,
    KeyLogin,
    Listen,
    LocalTcp,
    LocalUnix,
    NearTcp,
    NearUnix,
    PasswordLogin,
    RemoteTcp,
    RemoteUnix,
    Socks,
    TunnelSpec,
)
from reconciler.core.text.forms import and_more

_SHOWN = 8
_AGENT_VARIABLE = "SSH_AUTH_SOCK"


class Permissions:
    """What one file may do. Without a policy, and for a file that no rule matches, everything; the latter is an error.

    Each method reports what is not permitted.
    """

    def __init__(self, file: str, directory: str, options: Options, report: Report) -> None:
        self._report = report
        self._options = options
        path = os.path.abspath(Path(directory) / Path(file).name)  # noqa: PTH100 - also resolves `..`
        self._rule: FileRule | None = options.policy.rule_for(path) if options.policy else None

    @classmethod
    def of(cls, document: Document, options: Options, report: Report) -> Permissions:
        return cls(document.file, document.directory, options, report)

    # --- the file ----------------------------------------------------------------------------------------------

    def judge_file(self, document: Document) -> None:
        """Judge the name of the file, and the variables in it."""
        if self._options.policy is None:
            return
        if (rule := self._rule) is None:
            message = f"no rule of {self._options.policy.file} matches this file: add its name to `files` of a rule"
            self._report.error(Location(document.file), message, PolicyCode.FILE)
            return
        for place, name in _variables(document.root, Location(document.file)):
            self._judge_variable(rule, place, name)

    def judge_target(self, entry: TargetEntry) -> None:
        if (rule := self._rule) is None:
            return
        if entry.defines and not is_match(rule.define, entry.name):
            self._refuse(rule, entry.at, PolicyCode.TARGET, f"defines target {entry.name}", rule.define, "define")
        elif not entry.defines:
            self.judge_use(entry.at, entry.name, "adds to")

    def judge_use(self, place: Location, target: str, what: str = "uses") -> None:
        rule = self._rule
        if rule is not None and not is_match((*rule.define, *rule.use), target):
            self._refuse(rule, place, PolicyCode.TARGET, f"{what} target {target}", (*rule.use, *rule.define), "use")

    # --- targets -----------------------------------------------------------------------------------------------

    def judge_hop(self, fields: Fields, hop: Hop) -> None:
        """Judge the servers, and the files and variables that the hop names."""
        if (rule := self._rule) is None:
            return
        field = "hosts" if "hosts" in fields else "host"
        for server in hop.hosts if fields.invalid_fields.isdisjoint({field, "port"}) else ():
            if not rule.servers.permits(server.host, server.port, server.port):
                what = f"connects to {server}"
                self._refuse(rule, fields.place(field), PolicyCode.SERVER, what, rule.servers.texts, "servers")
        for login in hop.logins:
            match login:
                case KeyLogin(key, passphrase, certificate):
                    self.judge_source(fields, "privateKey", key)
                    self.judge_source(fields, "passphrase", passphrase)
                    self.judge_source(fields, "certificate", certificate)
                case AgentLogin(socket, only):
                    self._judge_agent(rule, fields, socket, only)
                case PasswordLogin(password):
                    self.judge_source(fields, "password", password)
        for path in hop.trust.known_hosts if "knownHosts" in fields else ():
            self.judge_path(fields, "knownHosts", path)

    def _judge_agent(self, rule: FileRule, fields: Fields, socket: str, only: str) -> None:
        if only:
            self.judge_path(fields, "privateKey", only)
        if socket:
            self.judge_path(fields, "agent", socket)
        else:
            self._judge_variable(rule, fields.place("agent" if "agent" in fields else "privateKey"), _AGENT_VARIABLE)

    def judge_command(self, fields: Fields) -> None:
        """Judge `proxyCommand`, which the target has."""
        if self._rule is not None and not self._rule.commands:
            message = f"`proxyCommand` is not permitted by the policy: remove it (`commands` at {self._rule.at})"
            self._report.error(fields.place("proxyCommand"), message, PolicyCode.COMMAND)

    def judge_source(self, fields: Fields, field: str, source: Source | None) -> None:
        match source:
            case FromFile(path):
                self.judge_path(fields, field, path)
            case FromEnv(variable) if self._rule is not None:
                self._judge_variable(self._rule, fields.place(field), variable)
            case _:
                pass

    def judge_path(self, fields: Fields, field: str, path: str) -> None:
        rule = self._rule
        if rule is not None and field not in fields.invalid_fields and not _is_permitted_here(rule.paths, path):
            self._refuse(rule, fields.place(field), PolicyCode.PATH, f"names {path}", rule.paths, "paths")

    def _judge_variable(self, rule: FileRule, place: Location, name: str) -> None:
        if not is_match(rule.variables, name):
            self._refuse(rule, place, PolicyCode.VARIABLE, f"names variable {name}", rule.variables, "variables")

    # --- tunnels -----------------------------------------------------------------------------------------------

    def judge_tunnel(self, fields: Fields, tunnel: TunnelSpec) -> None:
        """Judge type, listener, destination, expiry, and the files and variables that the tunnel names."""
        if (rule := self._rule) is None:
            return
        kind = tunnel.kind
        if (policy := rule.of_type(kind)) is None:
            permitted = " or ".join(name for name, _ in rule.types) or "none"
            message = (
                f"a {kind} tunnel is not permitted by the policy: expected {permitted} (add `{kind}` to {rule.at})"
            )
            self._report.error(fields.at, message, PolicyCode.TYPE)
        else:
            self._judge_listen(rule, fields, policy.listen, tunnel)
            self._judge_destination(rule, fields, policy, tunnel)
        self._judge_expiry(rule, fields, tunnel.policy.expires_at)
        if tunnel.policy.port_file:
            self.judge_path(fields, "portFile", tunnel.policy.port_file)
        for user in tunnel.policy.users:
            self.judge_source(fields, "auth", user.password)

    def _judge_listen(self, rule: FileRule, fields: Fields, places: PermittedPlaces, tunnel: TunnelSpec) -> None:
        listen = tunnel.listen
        side = "remote" if tunnel.kind == "remote" else "local"
        if not _is_unknown(fields, side) and not _may_listen(places, listen):
            place = fields.place(_field_at_fault(fields, side, places, listen))
            self._refuse(rule, place, PolicyCode.LISTEN, f"listens on {listen}", places.texts, f"{tunnel.kind}.listen")

    def _judge_destination(self, rule: FileRule, fields: Fields, policy: TypePolicy, tunnel: TunnelSpec) -> None:
        places, route = policy.destinations, tunnel.route
        if isinstance(route, Socks):
            self._judge_socks(rule, fields, places, tunnel.policy.allow_destinations)
            return
        side = "local" if tunnel.kind == "remote" else "remote"
        if not _is_unknown(fields, side) and not _may_lead_to(places, route):
            place, key = fields.place(_field_at_fault(fields, side, places, route)), f"{tunnel.kind}.destinations"
            self._refuse(rule, place, PolicyCode.DESTINATION, f"leads to {route}", places.texts, key)

    def _judge_socks(self, rule: FileRule, fields: Fields, places: PermittedPlaces, allowed: Sequence[str]) -> None:
        if "allowDestinations" in fields.invalid_fields:
            return
        place = fields.place("allowDestinations")
        for text in allowed or ("*:*",):
            if not places.permits_all_of(_rule_of(text)):
                what = f"allows {text}" if allowed else "allows every destination without `allowDestinations`"
                self._refuse(rule, place, PolicyCode.DESTINATION, what, places.texts, "socks.destinations")

    def _judge_expiry(self, rule: FileRule, fields: Fields, expires_at: float | None) -> None:
        if rule.expires_within is None or "expiresAt" in fields.invalid_fields:
            return
        now = time.time() if self._options.now is None else self._options.now
        longest = shown_duration(rule.expires_within)
        if expires_at is None:
            what = "no `expiresAt`, which the policy requires: add one"
        elif expires_at - now > rule.expires_within:
            what = "`expiresAt` is later than the policy permits: expected one"
        else:
            return
        message = f"{what} at most {longest} from now (`expiresWithin` at {rule.at})"
        self._report.error(fields.place("expiresAt"), message, PolicyCode.EXPIRY)

    def _refuse(
        self,
        rule: FileRule,
        place: Location,
        code: PolicyCode,
        what: str,
        permitted: Iterable[str | Glob],
        key: str,
    ) -> None:
        texts = [one.text if isinstance(one, Glob) else one for one in permitted]
        expected = and_more(texts, _SHOWN) or "none"
        message = f"{what}, which the policy does not permit: expected {expected} (`{key}` at {rule.at})"
        self._report.error(place, message, code)


def _may_listen(places: PermittedPlaces, listen: Listen) -> bool:
    match listen:
        case LocalTcp(host, first, last):
            return places.permits(host, first, last)
        case RemoteTcp(_, host, port):
            return places.permits(host, port, port)
        case LocalUnix(path):
            return _is_permitted_here(places.paths, path)
        case RemoteUnix(_, path):
            return is_match(places.paths, path)


def _may_lead_to(places: PermittedPlaces, route: FarTcp | FarUnix | NearTcp | NearUnix) -> bool:
    match route:
        case FarTcp(_, host, port) | NearTcp(host, port):
            return places.permits(host, port, port)
        case FarUnix(_, path):
            return is_match(places.paths, path)
        case NearUnix(path):
            return _is_permitted_here(places.paths, path)


def _is_permitted_here(globs: Iterable[Glob], path: str) -> bool:
    """Return True if a pattern matches a path of this machine, and no symlink leads out of the pattern's directory."""
    return any(glob.matches(path) and resolves_into(path, glob.directory) for glob in globs)


def _is_unknown(fields: Fields, side: str) -> bool:
    return not fields.invalid_fields.isdisjoint({f"{side}Host", f"{side}Port", f"{side}Socket"})


def _field_at_fault(fields: Fields, side: str, places: PermittedPlaces, value: object) -> str:
    """Return the field that the message points at: the host if none of its ports is permitted, else the port."""
    if f"{side}Socket" in fields:
        return f"{side}Socket"
    host = getattr(value, "host", "")
    return f"{side}Host" if f"{side}Host" in fields and not places.knows(host) else f"{side}Port"


def _rule_of(text: str) -> DestinationRule:
    return parse_rule(text, lowest_port=1)


def _variables(node: Node, at: Location) -> Iterator[tuple[Location, str]]:
    """Yield each variable in the values, with its place."""
    check()
    match node:
        case Scalar(line=line, column=column):
            place = Location(at.file, line, column, at.path)
            yield from ((place, name) for name in dict.fromkeys(node.variables) if name)
        case Items(values):
            for index, value in enumerate(values):
                yield from _variables(value, Location(at.file, path=dotted(at.path, index)))
        case Table():
            for entry in node:
                yield from _variables(entry.value, Location(at.file, path=dotted(at.path, entry.key)))
