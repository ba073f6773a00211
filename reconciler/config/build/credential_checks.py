"""Warns about credentials that cannot be used, and about algorithms that are not supported.

Input: a hop, its fields, and an `Inspector`, which finds the fault. Output: warnings, each at its field.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.config.build.fields import Fields
from reconciler.config.options import Inspector
from reconciler.config.problem import Location, WarningCode
from reconciler.config.schema.document import Words
from reconciler.config.schema.violations import dotted, sentence
from reconciler.config.syntax.nodes import Items, Node, Scalar
from reconciler.core.spec import AgentLogin, Hop, KeyLogin, Login

_NOUNS = {"cipher": "cipher", "kex": "key exchange", "mac": "MAC", "hostKey": "host key type"}
_KEY_FIELDS = ("privateKey", "passphrase", "certificate")


def warn_of_unusable_credentials(hop: Hop, fields: Fields, inspector: Inspector) -> None:
    """Add a warning for each key that cannot be used for a login, and for each unsupported algorithm."""
    if fields.invalid_fields.isdisjoint(_KEY_FIELDS):
        _check_logins(hop, fields, inspector)
    algorithms = fields.nested("algorithms", "algorithms")
    if algorithms is not None:
        _check_algorithms(algorithms, fields, inspector)


def _check_logins(hop: Hop, fields: Fields, inspector: Inspector) -> None:
    keyed = [login for login in hop.logins if _has_key(login)]
    node_of_keys = fields.node("privateKey")
    nodes: tuple[Node | None, ...] = node_of_keys.values if isinstance(node_of_keys, Items) else (node_of_keys,)
    if len(nodes) != len(keyed):
        return  # one of them is invalid, which has been reported
    for login, node in zip(keyed, nodes, strict=True):
        message, field = inspector.unusable_credential(hop, login)
        if message:
            place = fields.place(field)
            if field == "privateKey" and node is not None:
                place = _at(place, node)
            fields.report.warn(place, message, WarningCode.UNUSABLE_LOGIN, *fields.beside(field))


def _has_key(login: Login) -> bool:
    return isinstance(login, KeyLogin) or (isinstance(login, AgentLogin) and bool(login.only))


def _check_algorithms(algorithms: Fields, fields: Fields, inspector: Inspector) -> None:
    for kind, noun in _NOUNS.items():
        node = algorithms.node(kind)
        for index, name in enumerate(node.values if isinstance(node, Items) else ()):
            if not isinstance(name, Scalar) or name.unset or name.text in (known := inspector.algorithms(kind)):
                continue
            message = sentence(name, Words(noun, "one that this installation supports"), tuple(known))
            place = _at(algorithms.place(kind), name)
            fields.report.warn(
                replace(place, path=dotted(place.path, index)),
                message,
                WarningCode.UNKNOWN_ALGORITHM,
                *algorithms.beside(kind),
                *fields.beside("algorithms"),
            )


def _at(place: Location, node: Node) -> Location:
    return replace(place, line=node.line, column=node.column) if isinstance(node, Scalar) and node.line else place
