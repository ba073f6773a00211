"""What the schema validator finds, as sentences for people.

In: a file's nodes. Out: problems with the place of the value (or of the key, for an unknown one), what it is not, and
what would be right. Values that come from variables are left to the builder, which knows whether text or number is
meant.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from reconciler.config.deadline import check
from reconciler.config.problem import ErrorCode, Place, Problem
from reconciler.config.schema.document import Schema, Words, resolved, schema, words_in
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table, is_null, plain
from reconciler.config.syntax.yaml_reader import MAX_PROBLEMS, typed
from reconciler.core.secret import may_hold_secret

_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_$-]+")
_SHOWN_KEY = re.compile(r"[^:@=]{0,63}")  # `{password:pw}` and `user:pw@host: {}` have keys that are none
_OF_SECRETS = ("file", "username")  # a mapping that may have this key is, or holds, a secret
_MAX_SHOWN = 60
_FEW = 12


def violations(root: Table, file: str) -> list[Problem]:
    """All that the schema has against the file, each thing once."""
    explainer = _Explainer(root, file)
    found = [problem for error in _validator().iter_errors(plain(root)) for problem in explainer.explain(error)]
    # What is missing is the key that was misspelt.
    return [p for p in found if p.code is not ErrorCode.MISSING or p.path not in explainer.misspelt]


@cache
def _validator() -> Draft202012Validator:
    by_type = Draft202012Validator.VALIDATORS["type"]

    def checking(*arguments: Any) -> Iterator[ValidationError]:
        check()
        yield from by_type(*arguments) or ()

    kind: type[Draft202012Validator] = validators.extend(Draft202012Validator, {"type": checking})  # type: ignore[no-untyped-call]  # it has no types
    return kind(schema())


def dotted(path: str, step: str | int) -> str:
    """A path in words, one step longer: targets.prod.tunnels[0]."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    key = step if _SIMPLE_KEY.fullmatch(step) and len(step) <= _MAX_SHOWN else shown_key(step)
    return f"{path}.{key}" if path else key


def shown_key(key: str) -> str:
    """A key in quotes, for messages; not what may be a value that lost its place."""
    return json.dumps(key, ensure_ascii=False) if is_shown_key(key) else '"…"'


def is_shown_key(key: str) -> bool:
    return _SHOWN_KEY.fullmatch(key) is not None


def quoted(text: str) -> str:
    """A value in quotes, for messages: cut if it is long, and not shown if it may hold a password or a token."""
    if may_hold_secret(text):
        return "this value"
    return json.dumps(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…", ensure_ascii=False)


def sentence(node: Node, words: Words, choices: Sequence[str] = (), numbers: bool = False) -> str:
    """What is wrong with a value: `"abc" is not a port; a whole number from 0 to 65535 is right`."""
    right = f"; {words.right} is right" if words.right else ""
    if isinstance(node, Scalar) and isinstance(node.value, str) and numbers and isinstance(typed(node.value), int):
        right = (
            right.rstrip(",").replace(" is right", " without quotes is right") if right else "; leave the quotes out"
        )
    if isinstance(node, Scalar) and node.value is None:
        return f"has no value{right}"
    return f"{_shown(node, secret=words.secret)} is not {words.noun}{right}{_meant(node, choices)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, or ""."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), by_lower, n=1, cutoff=0.7)
    return by_lower[found[0]] if found else ""


def _meant(node: Node, choices: Sequence[str]) -> str:
    if isinstance(node, Scalar) and isinstance(node.value, str) and (near := did_you_mean(node.value, choices)):
        return f" (did you mean {near}?)"
    return ""


def _shown(node: Node, *, secret: bool) -> str:
    match node:
        case Items():
            return "a list"
        case Table():
            return "a mapping"
        case Scalar(variables=(name, *_)):
            return f"the value of ${{{name}}}"
        case Scalar() if secret:
            return "this value"
        case Scalar(value=str(text)):
            return quoted(text)
        case Scalar():
            return node.text


class _Explainer:
    def __init__(self, root: Table, file: str) -> None:
        self.root = root
        self.file = file
        self.misspelt: set[str] = set()  # paths of mappings with an unknown key
        self.suggested = 0

    def explain(self, error: ValidationError) -> Iterator[Problem]:
        check()
        path = list(error.absolute_path)
        node, place = self._locate(path)
        subschema: Schema = error.schema if isinstance(error.schema, dict) else {}
        if "propertyNames" in error.absolute_schema_path and isinstance(error.instance, str):
            yield self._bad_name(node, place, error.instance, of_label="labels" in path)
        elif error.validator == "additionalProperties" and isinstance(node, Table):
            yield from self._unknown_keys(node, place, subschema)
        elif error.validator == "required" and isinstance(node, Table):
            yield from self._missing(node, place, subschema["required"])
        elif error.validator == "minItems" and isinstance(node, Items) and not node.values:
            yield Problem.at(place, f"is an empty list; {words_in(subschema).right} is right", ErrorCode.VALUE)
        elif error.validator == "oneOf" and isinstance(node, Table):
            names = " and ".join(f"`{one['required'][0]}`" for one in subschema["oneOf"])
            message = f"takes one of {names}"
            if place.path not in self.misspelt:
                yield Problem.at(place, message, ErrorCode.VALUE)
        elif error.validator == "anyOf" and not isinstance(node, Scalar) and (inner := _branch(error)):
            for cause in inner:
                yield from self.explain(cause)
        elif not _from_variable(node):
            numbers = any(_takes_integers(one) for one in (subschema, *subschema.get("anyOf", ())))
            message = sentence(node, words_in(subschema), choices_in(subschema), numbers)
            yield Problem.at(place, message, ErrorCode.VALUE)

    def _locate(self, path: Sequence[str | int]) -> tuple[Node, Place]:
        node: Node = self.root
        line, column, words = 1, 1, ""
        for step in path:
            words = dotted(words, step)
            if isinstance(node, Table) and isinstance(step, str) and (entry := node.entry(step)):
                node = entry.value
                # A mapping begins at its first key; what is said of it as a whole belongs beside its name.
                nested = isinstance(node, Table)
                line, column = (entry.line, entry.column) if nested else (node.line, node.column)
            elif isinstance(node, Items) and isinstance(step, int):
                node = node.values[step]
                line, column = node.line, node.column
        return node, Place(self.file, line, column, words)

    def _bad_name(self, node: Node, place: Place, name: str, *, of_label: bool) -> Problem:
        entry = node.entry(name) if isinstance(node, Table) else None
        line, column = (entry.line, entry.column) if entry else (place.line, place.column)
        right = "lower-case letters, digits, `.`, `_`, `-`, at most 63, a letter or digit first"
        if of_label:
            right = "letters, digits and `_`, at most 63, no digit first"
        message = f"{shown_key(name)} is not a name; {right}, is right"
        return Problem.at(Place(self.file, line, column, dotted(place.path, name)), message, ErrorCode.VALUE)

    def _unknown_keys(self, node: Table, place: Place, subschema: Schema) -> Iterator[Problem]:
        known = subschema["properties"]
        for entry in node:
            if entry.key in known or entry.key.startswith("x-"):
                continue
            self.misspelt.add(place.path)
            near = self._near(entry.key, known)
            names = [name for name in known if name[0] not in "x$"]
            hint = f"known are {', '.join(names)}" if len(names) < _FEW else "`tunnels schema` shows the known ones"
            hint = f"did you mean `{near}`?" if near else hint
            hint = "a space is missing after its colon" if _lacks_space(entry, known) else hint
            may_be_secret = not near and (is_null(entry.value) or any(name in known for name in _OF_SECRETS))
            path = place.path if may_be_secret else dotted(place.path, entry.key)
            at = Place(self.file, entry.line, entry.column, path)
            said = "unknown key, not shown as it may be a secret" if may_be_secret else "unknown key"
            yield Problem.at(at, f"{said}; {hint}", ErrorCode.UNKNOWN_KEY)

    def _near(self, word: str, known: Iterable[str]) -> str:
        """The suggestion for a misspelt key: only for as many as are told, because it takes a while."""
        self.suggested += 1
        return did_you_mean(word, known) if self.suggested <= MAX_PROBLEMS else ""

    def _missing(self, node: Table, place: Place, required: Sequence[str]) -> Iterator[Problem]:
        for name in required:
            if node.get(name) is None:
                hint = "; `targets: {}` says that there are none" if name == "targets" else ""
                yield Problem.at(place, f"`{name}` is missing{hint}", ErrorCode.MISSING)


def _lacks_space(entry: Entry, known: Iterable[str]) -> bool:
    """`{host: h, password:pw}` has a key `password:pw` without a value."""
    return is_null(entry.value) and entry.key.partition(":")[0] in known and ":" in entry.key


def _from_variable(node: Node) -> bool:
    return isinstance(node, Scalar) and bool(node.variables) and (bool(node.unset) or not isinstance(node.value, str))


def _takes_integers(subschema: Schema) -> bool:
    kinds = subschema.get("type", ())
    return kinds == "integer" or "integer" in kinds


def choices_in(subschema: Schema) -> tuple[str, ...]:
    return tuple(
        word
        for one in (subschema, *subschema.get("anyOf", ()))
        for word in resolved(one).get("enum", ())
        if isinstance(word, str)
    )


def _branch(error: ValidationError) -> list[ValidationError]:
    """The errors of the alternative that was meant: the one of the right type with the fewest complaints."""
    branches: dict[object, list[ValidationError]] = {}
    for cause in error.context or ():
        branches.setdefault(cause.schema_path[0], []).append(cause)
    meant = [
        causes
        for causes in branches.values()
        if not any(cause.validator in ("type", "const") and not cause.path for cause in causes)
    ]
    return min(meant, key=len, default=[])
