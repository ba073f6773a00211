"""The JSON Schemas: the single source of the structure, defaults and field descriptions of the file.

Output: the text of a schema, a default as a node, and the wording for the values of a field. The schemas are in
`schemas/` at the top of a checkout, and inside the package in a wheel. Without a name, the functions are about
tunnels.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from reconciler.config.syntax.nodes import Node, made_of

Schema = Mapping[str, Any]  # JSON: its shape is JSON Schema's own


class Words(NamedTuple):
    """The wording for messages about a value.

    noun      what the value is called, without an article
    expected  what a correct value looks like
    secret    the value is never shown
    limits    the smallest and the largest number, if the value is a number
    """

    noun: str
    expected: str
    secret: bool = False
    limits: tuple[float, float] | None = None


@cache
def schema_text(name: str = "tunnels") -> str:
    """Return the text of the schema `tunnels` or `policy`."""
    package = Path(__file__).resolve().parents[2]
    file = f"{name}.schema.json"
    places = (package / "schemas", package.parent / "schemas")
    path = next((p / file for p in places if (p / file).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{file} is missing from the installation: install again")
    return path.read_text("utf-8")


@cache
def schema(name: str = "tunnels") -> Schema:
    parsed: Schema = json.loads(schema_text(name))
    return parsed


@cache
def known_words() -> frozenset[str]:
    """Return all enum values of the schema: `socks`, `onDemand`, `report`, ..."""
    found: set[str] = set()
    todo: list[object] = [schema()]
    while todo:
        match todo.pop():
            case dict() as one:
                found |= {word for word in one.get("enum", ()) if isinstance(word, str)}
                todo += one.values()
            case list() as several:
                todo += several
            case _:
                pass
    return frozenset(found)


def definition(name: str) -> Schema:
    found: Schema = schema()["$defs"][name]
    return found


def property_of(kind: str, name: str) -> Schema:
    """Return the subschema of a field with references resolved; {} if the schema has no such field."""
    found: Schema = definition(kind)["properties"].get(name, {})
    return resolved(found)


def resolved(subschema: Schema) -> Schema:
    """Replace `$ref` by what it refers to. Keys beside the `$ref` take precedence."""
    while "$ref" in subschema:
        rest = {key: value for key, value in subschema.items() if key != "$ref"}
        subschema = {**_at(subschema["$ref"]), **rest}
    return subschema


def _at(ref: str) -> Schema:
    found: Schema = schema()
    for step in ref.removeprefix("#/").split("/"):
        found = found[step]
    return found


@cache
def default(kind: str, name: str, variant: str = "") -> Node | None:
    """Return the default of a field; None if it has none or a computed one. `variant` is the type of the tunnel."""
    subschema = property_of(kind, name)
    by_variant = subschema.get("x-default", {})
    if variant in by_variant:
        return made_of(by_variant[variant])
    return made_of(subschema["default"]) if "default" in subschema else None


@cache
def words(kind: str, name: str) -> Words:
    return words_in(property_of(kind, name))


def words_in(subschema: Schema) -> Words:
    noun, expected = subschema.get("x-noun", "value"), subschema.get("x-expected", "")
    return Words(noun, expected, bool(subschema.get("x-secret")), _limits(subschema))


def _limits(subschema: Schema) -> tuple[float, float] | None:
    """Return the limits of a field that takes numbers.

    None for a duration: it takes a unit too, so a range of bare numbers (milliseconds) would mislead.
    """
    if subschema.get("x-noun") == "duration":
        return None
    for one in (subschema, *subschema.get("anyOf", ())):
        if "minimum" in one and "maximum" in one:
            return one["minimum"], one["maximum"]
    return None
