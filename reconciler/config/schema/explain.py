"""Explains fields of the file from the schema: what a field takes, its default, its meaning, an example.

Input: a path as in messages (`targets.prod.tunnels[0].localPort`, also with the name of the tunnel) or the bare name of
a field. Output: an `Explanation` for each different meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from reconciler.config.schema.document import Schema, resolved, schema
from reconciler.config.schema.reference import default_text
from reconciler.config.schema.violations import did_you_mean
from reconciler.config.syntax.yaml_reader import typed
from reconciler.core.text.forms import and_more

_INDEX = re.compile(r"\[[^\[\]]*\]")
_PLAIN = re.compile(r"[\w./~][\w./~:@+-]*[\w]|\w")
_STEPS_MAX = 24  # of a path
_SHOWN = 12


class UnknownFieldError(Exception):
    """There is no such field. The message says which one may be meant."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A field. `places` are the paths where it can be written, `fields` the fields of a mapping."""

    places: tuple[str, ...]
    takes: str
    default: str
    meaning: str
    examples: tuple[str, ...]
    fields: tuple[str, ...]


def explain(field: str, others: Iterable[str] = ()) -> list[Explanation]:
    """Return the explanations of a field, one for each meaning. Raises UnknownFieldError.

    `others` are words that are no fields, and that the error may suggest in place of a name.
    """
    steps = [step for step in _INDEX.sub(".*", field.strip()).split(".") if step]
    if not steps or len(steps) > _STEPS_MAX:
        raise UnknownFieldError(f'"{field}" is not a field: expected a path such as `targets.prod.port`, or a name')
    found = next(_walk(schema(), steps, ""), None)
    if found is not None:
        return [_explanation(*found)]
    if len(steps) == 1:
        named = _merged(_explanation(path, one) for path, one in _all_fields() if _last(path) == steps[0])
        if named:
            return named
    raise UnknownFieldError(_unknown(field, steps, others))


def _walk(subschema: Schema, steps: list[str], path: str) -> Iterator[tuple[str, Schema]]:
    """Yield the fields that the steps lead to. A name in the file may have dots, and an index may be left out."""
    if not steps:
        if path:
            yield path, subschema
        return
    for one in _alternatives(subschema):
        if steps[0] in one.get("properties", {}):
            yield from _walk(one["properties"][steps[0]], steps[1:], _below(path, steps[0]))
        if isinstance(one.get("additionalProperties"), dict):
            for count in _lengths(steps):
                yield from _walk(one["additionalProperties"], steps[count:], _below(path, "NAME"))
        if isinstance(one.get("items"), dict):
            for count in (0, *_lengths(steps)):
                yield from _walk(one["items"], steps[count:], f"{path}[]")


def _lengths(steps: list[str]) -> range:
    """Return how many steps a name may take: several only if a field follows, as in `targets.prod.eu.port`."""
    return range(1, max(2, len(steps)))


def _alternatives(subschema: Schema) -> Iterator[Schema]:
    one = resolved(subschema)
    yield one
    for kind in ("anyOf", "oneOf"):
        for other in one.get(kind, ()):
            yield from _alternatives(other)


def _all_fields() -> Iterator[tuple[str, Schema]]:
    """Yield every field with its path. A jump host is visited once, however deep."""
    todo: list[tuple[str, Schema]] = [("", schema())]
    while todo:
        path, subschema = todo.pop(0)
        for one in _alternatives(subschema):
            for name, field in one.get("properties", {}).items():
                yield _below(path, name), field
                todo.append((_below(path, name), field))
            for key, step in (("additionalProperties", ".NAME"), ("items", "[]")):
                if isinstance(one.get(key), dict):
                    todo.append((f"{path}{step}", one[key]))


def _merged(explanations: Iterator[Explanation]) -> list[Explanation]:
    """Join the explanations that differ only in their places."""
    by_meaning: dict[Explanation, tuple[str, ...]] = {}
    for one in explanations:
        key = replace(one, places=())
        by_meaning[key] = tuple(dict.fromkeys((*by_meaning.get(key, ()), *one.places)))
    return [replace(key, places=places) for key, places in by_meaning.items()]


def _explanation(path: str, subschema: Schema) -> Explanation:
    one = resolved(subschema)
    name = _last(path)
    fields = {field: None for other in _alternatives(one) for field in other.get("properties", {})}
    return Explanation(
        places=(path,),
        takes=str(one.get("x-expected") or "a mapping"),
        default=default_text(one).replace("`", ""),
        meaning=one.get("description", ""),
        examples=tuple(f"{name}: {_yaml(example)}" for example in one.get("examples", ())[:2]),
        fields=tuple(fields),
    )


def _yaml(value: object) -> str:
    """Return the value as YAML on one line."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and typed(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _unknown(field: str, steps: list[str], others: Iterable[str]) -> str:
    above = next(_walk(schema(), steps[:-1], ""), None) if len(steps) > 1 else None
    if above is not None:
        known = {name: one for other in _alternatives(above[1]) for name, one in other.get("properties", {}).items()}
    else:
        known = {_last(path): one for path, one in _all_fields()}
    what = f'"{field}" is not a field'
    if similar := did_you_mean(steps[-1], [*known, *(others if len(steps) == 1 else ())]):
        return f"{what}: did you mean `{similar}`?"
    word = steps[-1].lower()
    about = [f"`{name}`" for name, one in known.items() if word in resolved(one).get("description", "").lower()]
    if about and len(word) > 2:
        return f"{what}: fields about it are {and_more(about, _SHOWN)}"
    if above is not None and known:
        return f"{what}: the fields of `{above[0]}` are {and_more([f'`{name}`' for name in known], _SHOWN)}"
    return f"{what}: `tunnels explain targets.NAME` lists those of a target"


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _last(path: str) -> str:
    return path.rpartition(".")[2].removesuffix("[]")
