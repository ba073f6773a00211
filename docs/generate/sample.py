"""A sample of any frozen value, made from its types: every optional part is there, every enum member a key.

A field that is added to the status or to a metric is then in the sample too, without a change here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from reconciler.core.histogram import Distribution
from reconciler.core.observed import Phase, Reason
from reconciler.core.subject import Subject

_T = TypeVar("_T")
_NOW = 1_800_000_000.0

# The values of fields that an example shows, by the name of the field.
_VALUES: dict[str, object] = {
    "id": "prod/postgres",
    "target": "prod",
    "kind": "local",
    "path": "/etc/tunnels/tunnels.yaml",
    "revision": "sha256:9f86d081884c7d65",
    "phase": Phase.DOWN,
    "reason": Reason.TIMEOUT,
    "message": "bastion.example.com:22 did not answer within 15 s: check its address, the route and the firewalls",
    "next_try_at": _NOW + 12,
    "host": "bastion.example.com:22",
    "hosts": ("bastion.example.com:22",),
    "via": ("jump.example.com:22",),
    "cipher": "aes256-gcm@openssh.com",
    "kex": "curve25519-sha256",
    "rtt": 0.012,
    "listen": "127.0.0.1:5432",
    "dial": "db.internal:5432",
    "description": "PostgreSQL",
    "labels": (("team", "data"),),
    "version": "1.0",
    "instance": "tunnels-0",
    "at": _NOW,
    "subject": Subject("tunnel", "prod/postgres"),
}
_NAMES = {"TargetSnapshot": "prod", "TunnelSnapshot": "postgres"}


def sample(kind: type[_T], **given: object) -> _T:
    """Return a value of a dataclass. `given`: the values of fields, by name, at any depth."""
    made: _T = _sample(kind, "", {**_VALUES, **given})
    return made


def _sample(kind: Any, name: str, given: Mapping[str, object]) -> Any:
    if kind is Distribution:
        return Distribution((0.1,), (1, 1), 0.05)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        values = {**given, "name": _NAMES.get(kind.__name__, "name")}
        fields = ((one.name, hint) for one in dataclasses.fields(kind) for hint in [get_type_hints(kind)[one.name]])
        return kind(**{one: values[one] if one in values else _sample(hint, one, given) for one, hint in fields})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _sample(next(one for one in arguments if one is not NoneType), name, given)
    if origin is tuple:
        return tuple(_sample(one, name, given) for one in arguments if one is not Ellipsis)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = arguments
        return {one: _sample(value, name, given) for one in _keys(key, name, given)}
    return _plain(kind, name)


def _keys(kind: Any, name: str, given: Mapping[str, object]) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)
    return [_sample(kind, name, given)]


def _plain(kind: Any, name: str) -> object:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    values: dict[Any, object] = {bool: True, int: 1, float: _NOW, str: name}
    return values[kind]
