"""Turns the findings of the schema validator into messages.

Input: the nodes of a file. Output: problems, each with the position of the value (for an unknown key, of the key), what
is wrong, and what is expected. Values that come from variables are left to the builder, which knows whether the field
takes text or a number.
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
from reconciler.config.problem import ErrorCode, Location, Problem
from reconciler.config.schema.document import Schema, Words, definition, resolved, schema, words_in
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table, is_null, plain
from reconciler.config.syntax.yaml_reader import MAX_PROBLEMS, typed
from reconciler.core.secret import may_hold_secret
from reconciler.core.text.printable import printable

_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_$-]+")
_SHOWN_KEY = re.compile(r"[^:@=]{0,63}")  # the keys of `{password:pw}` and `user:pw@host: {}` are misplaced values
_SECRET_FIELDS = ("file", "username")  # a mapping that may have one of these keys is, or holds, a secret
_MAX_SHOWN = 60  # characters of a value
_MAX_LISTED = 12  # known keys in a message
_HIDDEN = "(value not shown)"
_NUMBER = re.compile(r"a (?:whole )?number(?:,| from) ")


def violations(root: Table, file: str, of: str = "tunnels") -> list[Problem]:
    """Return every violation of the schema `of`, each one once."""
    explainer = _Explainer(root, file)
    found = [problem for error in _validator(of).iter_errors(plain(root)) for problem in explainer.explain(error)]
    # A missing key beside an unknown one is most likely that key, misspelt.
    return [p for p in found if p.code is not ErrorCode.MISSING or p.path not in explainer.misspelt]


@cache
def _validator(of: str) -> Draft202012Validator:
    by_type = Draft202012Validator.VALIDATORS["type"]

    def checking(*arguments: Any) -> Iterator[ValidationError]:
        check()
        yield from by_type(*arguments) or ()

    kind: type[Draft202012Validator] = validators.extend(Draft202012Validator, {"type": checking})  # type: ignore[no-untyped-call]  # it has no types
    return kind(schema(of))


def dotted(path: str, step: str | int) -> str:
    """Append one step to a path, as in `targets.prod.tunnels[0]`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    key = step if _SIMPLE_KEY.fullmatch(step) and len(step) <= _MAX_SHOWN else shown_key(step)
    return f"{path}.{key}" if path else key


def shown_key(key: str) -> str:
    """Return a key in quotes for a message, or `"…"` if it may be a misplaced value."""
    return json.dumps(key, ensure_ascii=False) if is_shown_key(key) else '"…"'


def is_shown_key(key: str) -> bool:
    """Return False if the key may be a misplaced value, and so a secret."""
    return _SHOWN_KEY.fullmatch(key) is not None


def quoted(text: str) -> str:
    """Return a value in quotes for a message: cut if it is long, and hidden if it may hold a password or a token."""
    if may_hold_secret(text):
        return _HIDDEN
    shown = json.dumps(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…", ensure_ascii=False)
    return printable(shown)


def sentence(node: Node, words: Words, choices: Sequence[str] = (), numbers: bool = False) -> str:
    """Return the message for a wrong value: `invalid port "abc": expected a whole number from 0 to 65535`.

    `choices` are the words that the field takes. `numbers` says that it takes whole numbers.
    """
    expected = f": expected {words.expected}" if words.expected else ""
    match node:
        case Scalar(value=None):
            return f"no value{expected}"
        case Scalar(variables=(name, *_)):
            return f"the value of ${{{name}}} is not a valid {words.noun}{expected}{_suggestion(node, choices)}"
        case Scalar(value=int() | float() as number) if not words.secret and _is_out_of_range(number, words):
            limits = _NUMBER.sub("", words.expected)
            return f"{words.noun} {node.text} is out of range: expected {limits}"
        case Scalar(value=str(text)):
            unquoted = ", without quotes" if expected and numbers and isinstance(typed(text), int) else ""
            fault = "unknown" if choices else "invalid"
            shown = _HIDDEN if words.secret else quoted(text)
            return f"{fault} {words.noun} {shown}{expected}{unquoted}{_suggestion(node, choices)}"
        case Scalar():
            return f"invalid {words.noun} {_HIDDEN if words.secret else node.text}{expected}"
        case Items() | Table():
            kind = "a list" if isinstance(node, Items) else "a mapping"
            return f"{kind} is not a valid {words.noun}{expected}"


def _is_out_of_range(number: float, words: Words) -> bool:
    if isinstance(number, bool) or words.limits is None:
        return False
    low, high = words.limits
    return not low <= number <= high


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the most similar known word, or ""."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), by_lower, n=1, cutoff=0.7)
    return by_lower[found[0]] if found else ""


def _suggestion(node: Scalar, choices: Sequence[str]) -> str:
    if isinstance(node.value, str) and (similar := did_you_mean(node.value, choices)):
        return f'; did you mean "{similar}"?'
    return ""


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
            yield Problem.at(place, f"empty list: expected {words_in(subschema).expected}", ErrorCode.VALUE)
        elif error.validator == "oneOf" and isinstance(node, Table):
            names = " and ".join(f"`{one['required'][0]}`" for one in subschema["oneOf"])
            message = f"expected exactly one of {names}"
            if place.path not in self.misspelt:
                yield Problem.at(place, message, ErrorCode.VALUE)
        elif error.validator == "anyOf" and not isinstance(node, Scalar) and (inner := _branch(error)):
            for cause in inner:
                yield from self.explain(cause)
        elif not _from_variable(node):
            numbers = any(_takes_integers(one) for one in (subschema, *subschema.get("anyOf", ())))
            message = sentence(node, words_in(subschema), choices_in(subschema), numbers)
            yield Problem.at(place, message, ErrorCode.VALUE)

    def _locate(self, path: Sequence[str | int]) -> tuple[Node, Location]:
        node: Node = self.root
        line, column, words = 1, 1, ""
        for step in path:
            words = dotted(words, step)
            if isinstance(node, Table) and isinstance(step, str) and (entry := node.entry(step)):
                node = entry.value
                # A mapping begins at its first key. A problem of the mapping as a whole is reported at its own key.
                nested = isinstance(node, Table)
                line, column = (entry.line, entry.column) if nested else (node.line, node.column)
            elif isinstance(node, Items) and isinstance(step, int):
                node = node.values[step]
                line, column = node.line, node.column
        return node, Location(self.file, line, column, words)

    def _bad_name(self, node: Node, place: Location, name: str, *, of_label: bool) -> Problem:
        entry = node.entry(name) if isinstance(node, Table) else None
        line, column = (entry.line, entry.column) if entry else (place.line, place.column)
        expected = words_in(definition("name")).expected
        if of_label:
            expected = "1 to 63 letters, digits or `_`, the first not a digit"
        message = f"invalid name {shown_key(name)}: expected {expected}"
        return Problem.at(Location(self.file, line, column, dotted(place.path, name)), message, ErrorCode.VALUE)

    def _unknown_keys(self, node: Table, place: Location, subschema: Schema) -> Iterator[Problem]:
        known = subschema["properties"]
        for entry in node:
            if entry.key in known or entry.key.startswith("x-"):
                continue
            self.misspelt.add(place.path)
            similar = self._suggestion(entry.key, known)
            names = [name for name in known if name[0] not in "x$"]
            few = len(names) < _MAX_LISTED
            hint = f"expected one of {', '.join(names)}" if few else "`tunnels schema` lists the known keys"
            hint = f"did you mean `{similar}`?" if similar else hint
            hint = "add a space after its colon" if _lacks_space(entry, known) else hint
            may_be_secret = not similar and (is_null(entry.value) or any(name in known for name in _SECRET_FIELDS))
            path = place.path if may_be_secret else dotted(place.path, entry.key)
            at = Location(self.file, entry.line, entry.column, path)
            fault = "unknown key (not shown: it may be a secret)" if may_be_secret else "unknown key"
            yield Problem.at(at, f"{fault}: {hint}", ErrorCode.UNKNOWN_KEY)

    def _suggestion(self, word: str, known: Iterable[str]) -> str:
        """Return the known key most similar to a misspelt one.

        The comparison is slow, so it is made only for as many keys as are reported.
        """
        self.suggested += 1
        return did_you_mean(word, known) if self.suggested <= MAX_PROBLEMS else ""

    def _missing(self, node: Table, place: Location, required: Sequence[str]) -> Iterator[Problem]:
        for name in required:
            if node.get(name) is None:
                hint = ": add `targets`, or `targets: {}` for no targets" if name == "targets" else ": add it"
                yield Problem.at(place, f"`{name}` is missing{hint}", ErrorCode.MISSING)


def _lacks_space(entry: Entry, known: Iterable[str]) -> bool:
    """Return True for a key such as `password:pw` in `{host: h, password:pw}`, which has no value."""
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
    """Return the errors of the alternative that fits best: the one of the right type with the fewest errors."""
    branches: dict[object, list[ValidationError]] = {}
    for cause in error.context or ():
        branches.setdefault(cause.schema_path[0], []).append(cause)
    candidates = [
        causes
        for causes in branches.values()
        if not any(cause.validator in ("type", "const") and not cause.path for cause in causes)
    ]
    return min(candidates, key=len, default=[])
