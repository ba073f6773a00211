"""Expands the short forms, which use the grammar of ssh's -L, -R and -D, to the long fields.

Input: `"[::1]:5433:pg.internal:5432"`. Output: localHost, localPort, remoteHost and remotePort, each with the position
of the short form. Port numbers are checked later, with the long fields. So are unset variables: in `5433:${DB}:5432`
only remoteHost depends on one.
"""

from __future__ import annotations

import re
from dataclasses import replace

from reconciler.config.schema.values import InvalidValueError
from reconciler.config.syntax.nodes import Node, Plain, Scalar
from reconciler.config.syntax.yaml_reader import typed

_PART = re.compile(r"\[[^\]]*\]|[^:\[\]]*")
_PORT = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?")
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")

Side = tuple[str, str]  # host and port, or "" and the path of a socket


def long_fields(kind: str, node: Node) -> dict[str, Node]:
    """Return the fields that the short form stands for, `type` included."""
    made: dict[str, Node] = {"type": Scalar(kind, kind)}
    if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool):
        raise InvalidValueError
    try:
        listen, dial = (_socks(node.text), None) if kind == "socks" else _forward(node.text, kind)
    except InvalidValueError:
        if not node.unset:
            raise
        unknown = ("localPort",) if kind == "socks" else ("localPort", "remotePort")
        return made | dict.fromkeys(unknown, node)
    local, remote = (dial, listen) if kind == "remote" else (listen, dial)
    return made | _side("local", local, node) | _side("remote", remote, node)


def _side(prefix: str, side: Side | None, at: Scalar) -> dict[str, Node]:
    if side is None:
        return {}
    host, port = side
    if "/" in port:
        return {f"{prefix}Socket": _part(port, port, at)}
    fields: dict[str, Node] = {f"{prefix}Port": _part(typed(port), port, at)}
    if host:
        fields[f"{prefix}Host"] = _part(host, host, at)
    return fields


def _part(value: Plain, text: str, at: Scalar) -> Scalar:
    unset = frozenset(at.unset)
    named = (name for name in _NAMED.findall(text) if name in unset) if unset else ()
    return replace(at, value=value, text=text, unset=tuple(named))


def _socks(text: str) -> Side:
    match _parts(text):
        case [port] if _is_port(port):
            return "", port
        case [host, port] if _is_port(port):
            return host or "*", port
        case _:
            raise InvalidValueError


def _forward(text: str, kind: str) -> tuple[Side, Side]:
    match _parts(text):
        case [port] if kind == "remote" and _is_port(port):
            raise InvalidValueError(
                "a SOCKS server on the remote side (ssh -R PORT) is not supported: expected [host:]port:host:port"
            )
        case [listen, path] if _is_path(path):
            return _listen(["", listen] if not _is_path(listen) else [listen]), ("", path)
        case [bind, port, path] if _is_path(path):
            return _listen([bind or "*", port]), ("", path)
        case [listen, host, port] if _is_port(port) and host:
            return _listen([listen] if _is_path(listen) else ["", listen]), (host, port)
        case [bind, listen, host, port] if _is_port(port) and host:
            return _listen([bind or "*", listen]), (host, port)
        case _:
            raise InvalidValueError


def _listen(side: list[str]) -> Side:
    match side:
        case [path]:
            return "", path
        case [host, port] if _is_port(port):
            return host, port
        case _:
            raise InvalidValueError


def _parts(text: str) -> list[str]:
    """Split the text at colons outside brackets."""
    parts, position = [], 0
    while found := _PART.match(text, position):
        parts.append(found[0])
        position = found.end()
        if position == len(text):
            return parts
        if text[position] != ":":
            break
        position += 1
    raise InvalidValueError


def _is_port(part: str) -> bool:
    """Return True for a port, a range, or an unset variable, which may stand for either."""
    return "${" in part or _PORT.fullmatch(part) is not None


def _is_path(part: str) -> bool:
    return "/" in part
