"""Builds the `Policy` of a tunnel, the settings that change in place, and warns about exposed listeners."""

from __future__ import annotations

import time
from collections.abc import Iterator

from reconciler.config.build.fields import Fields, fields_of
from reconciler.config.build.secret_sources import Sources
from reconciler.config.options import Options
from reconciler.config.problem import ErrorCode, Location, WarningCode
from reconciler.config.schema.values import (
    InvalidValueError,
    destination_rule,
    duration,
    each,
    filled,
    label,
    moment,
    rate,
    some_time,
    source_rule,
    switch,
    text,
    whole,
    word,
)
from reconciler.config.schema.violations import dotted, quoted
from reconciler.config.syntax.nodes import Items, Node, Scalar, Table
from reconciler.core.addresses import is_loopback
from reconciler.core.rules.access import DestinationRules
from reconciler.core.spec import Health, Listen, LocalTcp, Policy, RemoteTcp, SocksUser

_MOST = 1_000_000_000
_RFC1929_BYTES = 255


def policy(fields: Fields, kind: str, listen: Listen, sources: Sources, options: Options) -> Policy:
    """Build the policy: limits, rules, timeouts, description. `kind` is the type of the tunnel."""
    socks = kind == "socks"
    allow = fields.find("allow", each(source_rule), ())
    users = tuple(_users(fields, sources)) if socks else ()
    allow_destinations = fields.find("allowDestinations", each(destination_rule), ()) if socks else ()
    deny_destinations = fields.find("denyDestinations", each(destination_rule), ()) if socks else ()
    exposed = beyond_loopback(listen)
    if exposed:
        guarded = bool(allow or users or "auth" in fields or "allow" in fields.invalid_fields)
        _warn_of_exposure(fields, listen, guarded=guarded, kind=kind)
    if "denyDestinations" in fields and DestinationRules.parse(allow_destinations, deny_destinations).refuses_names:
        message = "rules by address refuse every host name: list the names to permit in `allowDestinations`"
        place, beside = fields.place("denyDestinations"), fields.beside("denyDestinations")
        fields.report.warn(place, message, WarningCode.NAMES_REFUSED, *beside)
    return Policy(
        description=fields.read("description", text),
        labels=_labels(fields),
        allow=allow,
        deny=fields.find("deny", each(source_rule), ()),
        max_connections=fields.read("maxConnections", whole(0, _MOST)),
        hold_timeout=fields.read("holdTimeout", duration),
        idle_timeout=fields.read("idleTimeout", duration),
        drain_timeout=fields.read("drainTimeout", duration),
        bandwidth_limit=fields.read("bandwidthLimit", rate),
        allow_destinations=allow_destinations,
        deny_destinations=deny_destinations,
        users=users,
        health=_health(fields) if kind != "socks" else None,
        critical=fields.read("critical", switch),
        audit=fields.find("audit", switch, exposed),
        expires_at=_expiry(fields, options),
        standby=kind == "remote" and fields.read("onConflict", word("retry", "standby")) == "standby",
        port_file=fields.find("portFile", sources.path, ""),
    )


def beyond_loopback(listen: Listen) -> bool:
    """Return True if other machines may reach the listener (for a remote one: machines other than the server)."""
    match listen:
        case LocalTcp(host=host) | RemoteTcp(host=host):
            return not is_loopback(host)
        case _:
            return False


def _warn_of_exposure(fields: Fields, listen: Listen, *, guarded: bool, kind: str) -> None:
    def warn(field: str, message: str, code: WarningCode) -> None:
        fields.report.warn(fields.place(field), message, code, *fields.beside(field))

    if isinstance(listen, RemoteTcp):
        message = (
            f"asks the server to listen on {listen.host}: set GatewayPorts in sshd, which otherwise listens on "
            "loopback without an error"
        )
        warn("remoteHost", message, WarningCode.REMOTE_BEYOND_LOOPBACK)
        return
    warn("localHost", f"listens on {listen}: other machines may reach it", WarningCode.BEYOND_LOOPBACK)
    if kind == "socks" and not guarded:
        message = (
            "other machines can use this proxy without a login: add `auth` or `allow`, or "
            "`x-allow: [open-proxy]` if this is intended"
        )
        fields.report.refuse(fields.place("localHost"), message, WarningCode.OPEN_PROXY, *fields.beside("localHost"))


def _labels(fields: Fields) -> tuple[tuple[str, str], ...]:
    node = fields.node("labels")
    if not isinstance(node, Table):
        return ()
    place = fields.place("labels")
    given = Fields("tunnel", fields_of(node, place), place, node, fields.report, fields.owner)
    return tuple((name, given.find(name, label, "")) for name in given.fields)


def _health(fields: Fields) -> Health | None:
    given = fields.nested("health", "health")
    if given is None:
        fields.find("health", _none, None)
        return None
    kind = given.find("type", word("tcp", "http"), "")
    if not kind:
        if "type" not in given:
            fields.error("health", "no type: add `type: tcp` or `type: http`", ErrorCode.MISSING)
        kind = "tcp"
    path = given.read("path", text)
    if kind == "http" and not path.startswith("/"):
        message = f"invalid request path {quoted(path)}: expected a path that begins with /"
        given.report.wrong_value(given.place("path"), message, overrides_schema=True)
    return Health(
        type=kind,
        path=path if kind == "http" else "",
        interval=given.read("interval", some_time),
        timeout=given.read("timeout", some_time),
        failure_threshold=given.read("failureThreshold", whole(1, _MOST)),
        reconnect=given.read("onFailure", word("report", "reconnect")) == "reconnect",
    )


def _none(node: Node) -> None:
    if not isinstance(node, Scalar) or node.value is not False:
        raise InvalidValueError


def _expiry(fields: Fields, options: Options) -> float | None:
    when = fields.find("expiresAt", moment, None)
    now = time.time() if options.now is None else options.now
    if when is not None and when <= now:
        place, beside = fields.place("expiresAt"), fields.beside("expiresAt")
        fields.report.warn(place, "this time has passed: the tunnel is off", WarningCode.EXPIRED, *beside)
    return when


def _users(fields: Fields, sources: Sources) -> Iterator[SocksUser]:
    node = fields.node("auth")
    place = fields.place("auth")
    several = isinstance(node, Items)
    seen: set[str] = set()
    for index, one in enumerate(node.values if isinstance(node, Items) else (node,) if node else ()):
        if not isinstance(one, Table):
            fields.wrong("auth", InvalidValueError(node=one))
            continue
        at = Location(place.file, one.line, one.column, dotted(place.path, index)) if several else place
        given = Fields("socksUser", fields_of(one, at), at, one, fields.report, fields.owner)
        name = given.find("username", filled, "")
        password = sources.secret(given, "password")
        if len(name.encode()) > _RFC1929_BYTES:
            message = "too long: SOCKS limits it to 255 bytes"
            given.report.wrong_value(given.place("username"), message, overrides_schema=True)
        if name in seen:
            given.error("username", f"duplicate user {name}: keep one", ErrorCode.DUPLICATE)
        seen.add(name)
        if name and password is not None:
            yield SocksUser(name, password)
