"""Expands `${VAR}`, `${VAR:-default}` and `$$` in values.

Input: the nodes of a file and the environment. Output: the same nodes with variables expanded. Each node records the
names of its variables, so that messages show the name and never the content. A variable that is not set stays as
written, and its node lists it as unset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from reconciler.config.deadline import check
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError, ErrorCode, Location, Problem
from reconciler.config.schema.violations import dotted
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table
from reconciler.config.syntax.yaml_reader import MAX_BYTES, typed

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_HINT = "write ${NAME} or ${NAME:-default}, or `$$` for a dollar sign"


@dataclass(frozen=True, slots=True)
class _Variable:
    """`${name}` or `${name:-default}`. `default` is None if there is none."""

    name: str
    default: str | None


_BROKEN = _Variable("", None)  # a `${` without a valid variable after it


def _parts(text: str) -> Iterator[str | _Variable]:
    """Split the text into literal parts and variables, in one pass; `$$` becomes a dollar sign."""
    position, last_brace = 0, text.rfind("}")
    while (dollar := text.find("$", position)) >= 0:
        if dollar > position:
            yield text[position:dollar]
        position = dollar + 2
        if text.startswith("$$", dollar):
            yield "$"
        elif not text.startswith("${", dollar):
            yield "$"
            position = dollar + 1
        else:
            name = _NAME.match(text, position)
            end = name.end() if name else position
            if name and text.startswith("}", end):
                yield _Variable(name[0], None)
                position = end + 1
            elif name and text.startswith(":-", end) and last_brace > end:
                close = text.index("}", end)
                yield _Variable(name[0], text[end + 2 : close])
                position = close + 1
            else:
                yield _BROKEN
                yield "${"
    if position < len(text):
        yield text[position:]


class Variables:
    """Expands the variables of a file, as far as `--allow-env` permits."""

    def __init__(self, environ: Mapping[str, str], options: Options) -> None:
        self.environ = environ
        self.prefixes = options.allow_env
        self.hidden = options.hidden
        self._remaining = MAX_BYTES  # characters that variables may still add to the file

    def refusal(self, name: str) -> str:
        """Return why the file may not use the variable, or ""."""
        if self.prefixes is None or name.startswith(self.prefixes):
            return ""
        allowed = ", ".join(f"{prefix}*" for prefix in self.prefixes) or "none"
        return f"{name} may not be read: --allow-env allows {allowed}"

    def hide(self, name: str) -> None:
        """Register the value of the variable as one that is never shown."""
        if self.hidden is not None and (value := self.environ.get(name)):
            self.hidden.add(name, value)

    def expand(self, root: Table, file: str) -> tuple[Table, list[Problem]]:
        """Return the nodes with variables expanded. Raises ConfigError if the result is too large."""
        problems: list[Problem] = []
        self._remaining = MAX_BYTES
        return self._table(root, Location(file), problems), problems

    def _node(self, node: Node, at: Location, problems: list[Problem]) -> Node:
        check()
        match node:
            case Scalar(value=str(text)) if "$" in text:
                return self._scalar(node, text, replace(at, line=node.line, column=node.column), problems)
            case Scalar():
                return node
            case Items():
                values = tuple(
                    self._node(value, replace(at, path=dotted(at.path, index)), problems)
                    for index, value in enumerate(node.values)
                )
                return replace(node, values=values)
            case Table():
                return self._table(node, at, problems)

    def _table(self, table: Table, at: Location, problems: list[Problem]) -> Table:
        def expanded(entry: Entry) -> Entry:
            if entry.key.startswith(("x-", "$")):
                return entry
            return replace(entry, value=self._node(entry.value, replace(at, path=dotted(at.path, entry.key)), problems))

        return replace(table, entries=tuple(map(expanded, table)))

    def _scalar(self, node: Scalar, text: str, at: Location, problems: list[Problem]) -> Scalar:
        parts = list(_parts(text))
        names = [part.name for part in parts if isinstance(part, _Variable) and part is not _BROKEN]
        state = _Expansion()
        if _BROKEN in parts:
            state.wrong[f"invalid variable after `${{`: {_HINT}", ErrorCode.VALUE] = None
        values = [part if isinstance(part, str) else self._value(part, state) for part in parts]
        self._remaining -= sum(map(len, values)) if names else 0
        if self._remaining < 0:
            message = f"the file with its variables expanded is larger than {MAX_BYTES // 1024} KiB: use fewer"
            raise ConfigError(Problem.at(at, message, ErrorCode.VALUE))
        problems.extend(Problem.at(at, message, code) for message, code in state.wrong)
        result = "".join(values)
        whole = len(parts) == 1 and bool(names)
        retyped = typed(result) if whole else None
        return replace(
            node,
            value=result if retyped is None else retyped,
            text=result,
            variables=tuple(names),
            whole=names[0] if whole and not state.from_default else "",
            unset=(*state.unset, *state.refused),
            refused=tuple(state.refused),
            written=text,
        )

    def _value(self, variable: _Variable, state: _Expansion) -> str:
        """Return the value of the variable, or the variable as written if it has none."""
        name, default = variable.name, variable.default
        if variable is _BROKEN:
            return ""
        if refusal := self.refusal(name):
            state.refuse(name, refusal, ErrorCode.FORBIDDEN)
            return f"${{{name}}}"
        value = self.environ.get(name)
        if default is not None and not value:
            state.from_default = True
            return _default(default, state)
        if value is None:
            state.unset[name] = None
            return f"${{{name}}}"
        if _CONTROL.search(value):
            state.refuse(name, f"the value of ${{{name}}} contains control characters: remove them", ErrorCode.VALUE)
            return f"${{{name}}}"
        self.hide(name)
        return value


@dataclass(slots=True)
class _Expansion:
    """Findings from the expansion of one value; each one once, in the order of the text."""

    wrong: dict[tuple[str, ErrorCode], None] = field(default_factory=dict)
    unset: dict[str, None] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)
    from_default: bool = False

    def refuse(self, name: str, message: str, code: ErrorCode) -> None:
        self.refused[name] = None
        self.wrong[message, code] = None


def _default(text: str, state: _Expansion) -> str:
    """Return the text of a default: `$$` is a dollar sign, a variable is an error."""
    pieces = text.split("$$")
    if any("${" in piece for piece in pieces):
        message = "a default cannot contain a variable: write its value out, or `$$` for a dollar sign"
        state.wrong[message, ErrorCode.VALUE] = None
    return "$".join(pieces)
