"""The JSON Schema of the file: the one source of its defaults, its field descriptions and its structure.

Out: the schema's text, a default as a node, and the words for what a field takes. The schema lies in `schemas/` at
the top of a checkout and inside the package in a wheel.
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
    """How to talk about a field: `noun` is what its value should be, `right` what would be right."""

    noun: str
    right: str
    secret: bool = False


@cache
def schema_text() -> str:
    package = Path(__file__).resolve().parents[2]
    places = (package / "schemas", package.parent / "schemas")
    path = next((p / "tunnels.schema.json" for p in places if (p / "tunnels.schema.json").is_file()), None)
    if path is None:
        raise FileNotFoundError("tunnels.schema.json belongs to the installation, but is not there: install again")
    return path.read_text("utf-8")


@cache
def schema() -> Schema:
    parsed: Schema = json.loads(schema_text())
    return parsed


@cache
def known_words() -> frozenset[str]:
    """The words that are values of fields: `socks`, `onDemand`, `report`, ..."""
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
    """The subschema of a field, references followed; the field's own words win. Empty for a name of the user's own."""
    found: Schema = definition(kind)["properties"].get(name, {})
    return resolved(found)


def resolved(subschema: Schema) -> Schema:
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
    """The default of a field, or None where it has none (or a computed one). `variant` is the tunnel's type."""
    subschema = property_of(kind, name)
    by_variant = subschema.get("x-default", {})
    if variant in by_variant:
        return made_of(by_variant[variant])
    return made_of(subschema["default"]) if "default" in subschema else None


@cache
def words(kind: str, name: str) -> Words:
    return words_in(property_of(kind, name))


def words_in(subschema: Schema) -> Words:
    noun, right = subschema.get("x-noun", "right here"), subschema.get("x-right", "")
    return Words(noun, right, bool(subschema.get("x-secret")))
