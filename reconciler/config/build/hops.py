"""Builds a `Hop` from fields: the address of one SSH server, the user, the credentials and the trusted host keys.

A target and an inline jump host both have these fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from reconciler.config.build.credential_checks import warn_of_unusable_credentials
from reconciler.config.build.fields import Fields
from reconciler.config.build.pasted_hosts import correction, is_plain
from reconciler.config.build.permissions import Permissions
from reconciler.config.build.secret_sources import Sources, is_socket, unreadable
from reconciler.config.options import Options, process_user
from reconciler.config.problem import ErrorCode, WarningCode
from reconciler.config.schema.values import (
    InvalidValueError,
    UnknownDirectoryError,
    each,
    filled,
    host,
    host_and_port,
    host_key,
    port,
    scalar,
    some_time,
    some_time_or_ms,
    switch,
    text,
)
from reconciler.config.syntax.nodes import Items, Node, Scalar
from reconciler.core.secret import FromFile, Source
from reconciler.core.spec import (
    AgentLogin,
    Algorithms,
    Endpoint,
    Hop,
    KeyLogin,
    Login,
    PasswordLogin,
    Trust,
    TrustMode,
)

_T = TypeVar("_T")
_DEFAULT_AGENT = ""  # $SSH_AUTH_SOCK
# Values of `agent` that are text, as YAML is read here, but meant as true or false and not as the path of a socket.
_NO_SOCKETS = frozenset({"yes", "no", "on", "off", "true", "false"})
_NAME = r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,252}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f:.]{0,15}(?:%[A-Za-z0-9._-]{1,32})?)"
_ALIAS = re.compile(rf"{_NAME}|\[{_NAME}\]:[0-9]{{1,5}}")


def hop(fields: Fields, sources: Sources, options: Options) -> Hop:
    """Build the hop that these fields describe."""
    algorithms = fields.nested("algorithms", "algorithms")
    made = Hop(
        hosts=_hosts(fields),
        user=_user(fields, options),
        logins=_logins(fields, sources),
        trust=_trust(fields, sources, options),
        algorithms=_algorithms(algorithms) if algorithms else Algorithms((), (), (), ()),
        compress=fields.read("compress", switch),
        strict_key_permissions=fields.read("strictKeyPermissions", switch),
    )
    Permissions(fields.at.file, sources.directory, options, fields.report).judge_hop(fields, made)
    if options.inspector is not None:
        warn_of_unusable_credentials(made, fields, options.inspector)
    return made


def connect_timeout(fields: Fields) -> float:
    """Return the seconds for TCP, handshake and login."""
    if "connectionTimeout" in fields and "connectTimeout" not in fields:
        warn_of_milliseconds(fields, "connectionTimeout")
        given = fields.find("connectionTimeout", some_time_or_ms, None)
        return fields.read("connectTimeout", some_time) if given is None else given
    return fields.read("connectTimeout", some_time)


def warn_of_milliseconds(fields: Fields, name: str) -> None:
    """Warn about a bare number so small that seconds are probably meant."""
    node = fields.node(name)
    if isinstance(node, Scalar) and isinstance(node.value, int) and 0 < node.value < 1000:
        message = f"{node.value} means {node.value} milliseconds: write {node.value}s for seconds"
        fields.report.warn(fields.place(name), message, WarningCode.MILLISECONDS, *fields.beside(name))


def _hosts(fields: Fields) -> tuple[Endpoint, ...]:
    default_port = fields.read("port", port)
    if "hosts" in fields:
        found = fields.find("hosts", each(_host_and_port), ())
        return tuple(Endpoint(name, own_port or default_port) for name, own_port in found)
    return (Endpoint(fields.find("host", _host_alone, "unknown"), default_port),)


def _host_alone(node: Node) -> str:
    return _corrected(lambda given: _plain(host(given)), node, "host")


def _host_and_port(node: Node) -> tuple[str, int | None]:
    def parse(given: Node) -> tuple[str, int | None]:
        name, own_port = host_and_port(given)
        return _plain(name), own_port

    return _corrected(parse, node, "hosts")


def _corrected(parse: Callable[[Node], _T], node: Node, field: str) -> _T:
    """Parse a host. For a pasted form (`user@host:port`, a URL) the message shows the fields to write."""
    try:
        return parse(node)
    except InvalidValueError as error:
        given = node.value if isinstance(node, Scalar) and not node.variables else None
        message = correction(given, field) if isinstance(given, str) and not error.message else ""
        if not message:
            raise
        raise InvalidValueError(message) from None


def _plain(name: str) -> str:
    if not is_plain(name):
        raise InvalidValueError
    return name


def _user(fields: Fields, options: Options) -> str:
    if "user" in fields:
        return fields.find("user", filled, "unknown")
    user = process_user() if options.user is None else options.user
    if not user:
        message = "no user: add `user` (the user of this process has no name)"
        fields.report.error(fields.at, message, ErrorCode.MISSING)
    return user


def _logins(fields: Fields, sources: Sources) -> tuple[Login, ...]:
    """Return the credentials in the order of the file."""
    keys = sources.keys(fields, "privateKey")
    picked = [key.path for key in keys if isinstance(key, FromFile) and key.path.endswith(".pub")]
    agent = _agent(fields, sources)
    if picked and "agent" not in fields and (refusal := sources.agent_refusal(_DEFAULT_AGENT)):
        fields.error("privateKey", refusal, ErrorCode.FORBIDDEN)
    logins = [
        login
        for name in fields.fields
        for login in _logins_of(name, fields, sources, keys=keys, agent=agent, all_of_agent=not picked)
    ]
    if not logins and not _is_login_invalid(fields):
        message = "no way to log in: add `privateKey`, `agent` or `password`"
        fields.report.warn(fields.at, message, WarningCode.NO_LOGIN, fields.table)
    _check_companions(fields, has_own_key=len(keys) > len(picked))
    return tuple(logins)


def _is_login_invalid(fields: Fields) -> bool:
    """Return True if a credential is given, but invalid and reported. An empty list of keys is not a credential."""
    keys = fields.node("privateKey")
    has_keys = keys is not None and not (isinstance(keys, Items) and not keys.values)
    return has_keys or "password" in fields or "agent" in fields.invalid_fields


def _logins_of(
    name: str, fields: Fields, sources: Sources, *, keys: tuple[Source, ...], agent: str | None, all_of_agent: bool
) -> Iterator[Login]:
    match name:
        case "privateKey":
            passphrase = sources.secret(fields, "passphrase")
            certificate = sources.key(fields, "certificate")
            own = [key for key in keys if not _is_public(key)]
            certified = _certified(own, certificate)
            for key in keys:
                if isinstance(key, FromFile) and _is_public(key):
                    yield AgentLogin(agent or _DEFAULT_AGENT, key.path)
                else:
                    yield KeyLogin(key, passphrase, certificate if key is certified else None)
        case "agent" if agent is not None and all_of_agent:
            yield AgentLogin(agent, "")
        case "password":
            if (password := sources.secret(fields, "password")) is not None:
                yield PasswordLogin(password)
        case _:
            pass


def _is_public(key: Source) -> bool:
    return isinstance(key, FromFile) and key.path.endswith(".pub")


def _certified(keys: list[Source], certificate: Source | None) -> Source | None:
    """Return the key that the certificate belongs to: the one with a matching name, otherwise the first."""
    if certificate is None or not keys:
        return None
    named = (key for key in keys if isinstance(key, FromFile) and str(certificate) == f"{key.path}-cert.pub")
    return next(named, keys[0])


def _check_companions(fields: Fields, *, has_own_key: bool) -> None:
    for name in ("passphrase", "certificate"):
        if fields.is_own(name) and not has_own_key and "privateKey" not in fields:
            fields.error(name, f"`{name}` requires a private key: add `privateKey`", ErrorCode.MISSING)


def _agent(fields: Fields, sources: Sources) -> str | None:
    """Return the socket of the agent; "" for $SSH_AUTH_SOCK, None for no agent."""

    def parse(node: Node) -> str | None:
        value = scalar(node).value
        if isinstance(value, bool):
            return _DEFAULT_AGENT if value else None
        if str(value).lower() in _NO_SOCKETS:
            raise InvalidValueError
        return sources.path(node)

    socket = fields.read("agent", parse)
    if socket is not None and "agent" not in fields.invalid_fields and (refusal := sources.agent_refusal(socket)):
        fields.error("agent", refusal, ErrorCode.FORBIDDEN)
        fields.invalid_fields.add("agent")
        return None
    if socket is not None and "agent" not in fields.invalid_fields and (fault := _agent_fault(socket, sources)):
        place = fields.place("agent")
        fields.report.warn(place, fault, WarningCode.SECRET_UNREADABLE, *fields.beside("agent"))
    return socket


def _agent_fault(socket: str, sources: Sources) -> str:
    """Return why the agent cannot be used, or ""."""
    if socket == _DEFAULT_AGENT:
        return "" if sources.environ.get("SSH_AUTH_SOCK") else "$SSH_AUTH_SOCK is not set"
    fault = "" if is_socket(socket) else unreadable(socket) or "not a socket"
    return f"{socket}: {fault}" if fault else ""


def _trust(fields: Fields, sources: Sources, options: Options) -> Trust:
    mode = fields.read("strictHostKeyChecking", _trust_mode)
    if mode is TrustMode.OFF:
        message = "host keys are not checked, so the server can be impersonated: pin its keys with `hostKeys`"
        place, beside = fields.place("strictHostKeyChecking"), fields.beside("strictHostKeyChecking")
        fields.report.warn(place, message, WarningCode.HOST_KEYS_UNCHECKED, *beside)
    host_keys = fields.find("hostKeys", each(host_key), ())
    known_hosts: tuple[str, ...] = ()
    if "knownHosts" in fields or not host_keys or mode is TrustMode.ACCEPT_NEW:
        known_hosts = _known_hosts(fields, sources)
    if "knownHosts" in fields and "knownHosts" not in fields.invalid_fields and mode is TrustMode.STRICT:
        _warn_of_unreadable(fields, known_hosts)
    alias = fields.find("hostKeyAlias", _alias, "")
    return Trust(mode, host_keys, known_hosts, alias, options.trust_command(fields.owner))


def _known_hosts(fields: Fields, sources: Sources) -> tuple[str, ...]:
    if "knownHosts" in fields:
        return fields.find("knownHosts", lambda node: _paths(node, sources), ())
    try:
        return fields.read("knownHosts", lambda node: _paths(node, sources))
    except UnknownDirectoryError:  # without a home directory, the default has no meaning
        return ()


def _alias(node: Node) -> str:
    found = text(node)
    if not _ALIAS.fullmatch(found):
        raise InvalidValueError
    return found


def _warn_of_unreadable(fields: Fields, paths: tuple[str, ...]) -> None:
    for path in paths:
        if fault := unreadable(path):
            place, beside = fields.place("knownHosts"), fields.beside("knownHosts")
            fields.report.warn(place, f"{path}: {fault}", WarningCode.SECRET_UNREADABLE, *beside)


def _paths(node: Node, sources: Sources) -> tuple[str, ...]:
    return each(sources.path)(node) if isinstance(node, Items) else (sources.path(node),)


def _trust_mode(node: Node) -> TrustMode:
    match scalar(node).value:
        case True:
            return TrustMode.STRICT
        case False:
            return TrustMode.OFF
        case "accept-new":
            return TrustMode.ACCEPT_NEW
        case _:
            raise InvalidValueError


def _algorithms(fields: Fields) -> Algorithms:
    def names(field: str) -> tuple[str, ...]:
        return fields.find(field, each(text), ())

    return Algorithms(names("cipher"), names("kex"), names("mac"), names("hostKey"))
