"""Describes the difference between two versions of a target or tunnel, with the field names and values of the file.

Secrets are masked. Of a long value, only the part that differs is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import cast

import yaml

from reconciler.config.effective_json import target_fields, tunnel_fields
from reconciler.core.spec import Endpoint, TargetSpec, TunnelSpec
from reconciler.system.redaction import redact_json

_VALUE_MAX = 40  # characters shown of a value
_LIST_MAX = 100  # characters shown of a list or mapping

_Fields = Mapping[str, object]


def target_changes(one: TargetSpec, other: TargetSpec) -> tuple[str, ...]:
    """Return the changed fields of a target, each as text: `keepaliveInterval 10s -> 30s`."""
    return () if one == other else _changes(_of_target(one), _of_target(other))


def tunnel_changes(one: TunnelSpec, other: TunnelSpec) -> tuple[str, ...]:
    """Return the changed fields of a tunnel. The name is not one of them: the subject of a step tells it."""
    if replace(one, id=other.id, name=other.name) == other:
        return ()
    return _changes(_of_tunnel(one), _of_tunnel(other))


def _of_target(target: TargetSpec) -> _Fields:
    return _redacted(target_fields(target))


def _of_tunnel(tunnel: TunnelSpec) -> _Fields:
    fields = {field: value for field, value in tunnel_fields(tunnel).items() if field != "name"}
    users = cast("list[dict[str, object]]", fields.get("auth", []))
    by_name = {"auth": {str(user["username"]): user["password"] for user in users}} if users else {}
    return _redacted({"target": tunnel.target} | fields | by_name)


def _redacted(fields: _Fields) -> _Fields:
    """Redact the values before they are shortened: half a secret would not be recognised."""
    return cast("_Fields", redact_json(fields))


def _changes(one: _Fields, other: _Fields) -> tuple[str, ...]:
    if ("hosts" in one) != ("hosts" in other):
        one, other = _with_hosts(one), _with_hosts(other)
    changes = [text for field in {**one, **other} for text in _differences(field, one.get(field), other.get(field))]
    return tuple(changes) or ("a secret in the file",)  # redacted, the old and the new value look the same


def _with_hosts(fields: _Fields) -> _Fields:
    """Return the fields of a target with one host in the form for several hosts."""
    if "hosts" in fields:
        return fields
    host = Endpoint(str(fields["host"]), cast("int", fields["port"]))
    return {"hosts": [str(host)], **{name: value for name, value in fields.items() if name not in ("host", "port")}}


def _differences(name: str, one: object, other: object) -> Iterator[str]:
    """Yield `holdTimeout 10s -> 30s`; for long lists and mappings the parts: `health.interval 30s -> 1m`."""
    if one == other or (not one and not other and None in (one, other)):  # a field of another type, at its default
        return
    before, after = _shown(one), _shown(other)
    if len(before) <= _VALUE_MAX and len(after) <= _VALUE_MAX:
        yield f"{name} {before} -> {after}"
        return
    match one, other:
        case dict(), dict():
            for key in {**one, **other}:
                yield from _differences(f"{name}.{key}", one.get(key), other.get(key))
        case [dict(), *_], [dict(), *_] if len(one) == len(other):
            for number, (old, new) in enumerate(zip(one, other, strict=True)):
                yield from _differences(f"{name}[{number}]", old, new)
        case list(), list() if any(part in one for part in other):
            yield from _members(name, one, other)
        case str(), str():
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
            start = max(0, common - _VALUE_MAX // 2)  # skip the common prefix: both values could look the same
            yield f"{name} {_window(before, start)} -> {_window(after, start)}"
        case _:
            yield f"{name} {_shown(one, whole=False)} -> {_shown(other, whole=False)}"


def _members(name: str, one: Sequence[object], other: Sequence[object]) -> Iterator[str]:
    """Yield what was added to a list and what was removed, which is easier to read than two long lists."""
    for verb, parts in (
        ("added", [part for part in other if part not in one]),
        ("removed", [part for part in one if part not in other]),
    ):
        if parts:
            yield f"{name} {verb} {_shown(parts, whole=False)}"
    if all(part in one for part in other) and all(part in other for part in one):
        yield f"{name} reordered, {_shown(other[0], whole=False)} first"


# --- values -----------------------------------------------------------------------------------------------------


def _shown(value: object, *, whole: bool = True) -> str:
    """Format a value as in the file. Not `whole`: elide the middle of long texts and the end of long lists."""
    match value:
        case None | "":
            return "(none)"
        case list() | dict() if not value:
            return "(none)"
        case bool():
            return str(value).lower()
        case [one]:
            return _shown(one, whole=whole)
        case list() | dict():
            return _inside(value, whole)
        case _:
            return str(value) if whole else _elided(str(value))


def _inside(value: object, whole: bool) -> str:
    """Format a part of a list or mapping, quoted where YAML needs quotes."""
    match value:
        case list():
            return f"[{_joined([_inside(one, whole) for one in value], whole)}]"
        case dict():
            return f"{{{_joined([f'{key}: {_inside(one, whole)}' for key, one in value.items()], whole)}}}"
        case "***":  # a secret
            return "***"
        case _:
            return _scalar(value, whole)


def _scalar(value: object, whole: bool) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    text = text.removesuffix("\n").removesuffix("\n...")
    if text == value and any(mark in text for mark in ",[]{}"):
        text = f"'{text}'"
    return text if whole else _elided(text)


def _joined(parts: Sequence[str], whole: bool) -> str:
    fits = len(parts)
    while not whole and fits > 1 and sum(map(len, parts[:fits])) > _LIST_MAX:
        fits -= 1
    return ", ".join([*parts[:fits], *([f"{len(parts) - fits} more"] if fits < len(parts) else [])])


def _elided(text: str) -> str:
    """Elide the middle of a long text: keys differ at the end."""
    end = text[-15:]
    return text if len(text) <= _VALUE_MAX else f"{_prefix(text, 25)}...{end[end.find(' ', 0, 8) + 1 :]}"


def _window(text: str, start: int) -> str:
    """Return the part of a text from `start`, cut at word boundaries."""
    if start:
        start += max(0, text[start - 1 : start + _VALUE_MAX // 4].find(" "))
    return (
        f"{'...' if start else ''}{_prefix(text[start:], _VALUE_MAX)}{'...' if len(text) > start + _VALUE_MAX else ''}"
    )


def _prefix(text: str, size: int) -> str:
    space = text.rfind(" ", size // 2, size + 1)
    return text[:space] if len(text) > size and space > 0 else text[:size]
