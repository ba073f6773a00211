"""`${VAR}`, `${VAR:-default}` and `$$` in values.

In: a file's nodes and the environment. Out: the same nodes with the values put in, each remembering which variables
it came from, so that messages name the variable and never its content. An unset one stays as it is written, and is
known where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from reconciler.config.deadline import check
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError, ErrorCode, Place, Problem
from reconciler.config.schema.violations import dotted
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table
from reconciler.config.syntax.yaml_reader import MAX_BYTES, typed

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_HINT = "write ${NAME} or ${NAME:-default}; `$$` is a dollar"


@dataclass(frozen=True, slots=True)
class _Variable:
    """`${name}`, or `${name:-default}`; `default` None: there is none."""

    name: str
    default: str | None


_BROKEN = _Variable("", None)  # `${` that begins no variable


def _parts(text: str) -> Iterator[str | _Variable]:
    """The text in one pass from left to right: literal parts, `$$` made a dollar, and variables."""
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
    """The environment as far as the file may name it."""

    def __init__(self, environ: Mapping[str, str], options: Options) -> None:
        self.environ = environ
        self.prefixes = options.allow_env
        self.hidden = options.hidden
        self._room = MAX_BYTES  # characters that the variables of one file may come to

    def refusal(self, name: str) -> str:
        """Why the file may not name that variable, or ""."""
        if self.prefixes is None or name.startswith(self.prefixes):
            return ""
        allowed = ", ".join(f"{prefix}*" for prefix in self.prefixes) or "none"
        return f"{name} may not be read: --allow-env allows {allowed}"

    def hide(self, name: str) -> None:
        """Never show that variable's value."""
        if self.hidden is not None and (value := self.environ.get(name)):
            self.hidden.add(name, value)

    def expand(self, root: Table, file: str) -> tuple[Table, list[Problem]]:
        """The file's nodes with the values put in. Raises ConfigError where they come to too much."""
        problems: list[Problem] = []
        self._room = MAX_BYTES
        return self._table(root, Place(file), problems), problems

    def _node(self, node: Node, at: Place, problems: list[Problem]) -> Node:
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

    def _table(self, table: Table, at: Place, problems: list[Problem]) -> Table:
        def expanded(entry: Entry) -> Entry:
            if entry.key.startswith(("x-", "$")):
                return entry
            return replace(entry, value=self._node(entry.value, replace(at, path=dotted(at.path, entry.key)), problems))

        return replace(table, entries=tuple(map(expanded, table)))

    def _scalar(self, node: Scalar, text: str, at: Place, problems: list[Problem]) -> Scalar:
        parts = list(_parts(text))
        names = [part.name for part in parts if isinstance(part, _Variable) and part is not _BROKEN]
        state = _Expansion()
        if _BROKEN in parts:
            state.wrong[f"`${{` begins a variable: {_HINT}", ErrorCode.VALUE] = None
        values = [part if isinstance(part, str) else self._value(part, state) for part in parts]
        self._room -= sum(map(len, values)) if names else 0
        if self._room < 0:
            message = f"the values of its variables make the file larger than {MAX_BYTES // 1024} KiB: name fewer"
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
        """What to put in its place: itself where it has no value."""
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
            state.refuse(name, f"the value of ${{{name}}} holds control characters", ErrorCode.VALUE)
            return f"${{{name}}}"
        self.hide(name)
        return value


@dataclass(slots=True)
class _Expansion:
    """What is found while one value is put together; each thing once, in the order of the text."""

    wrong: dict[tuple[str, ErrorCode], None] = field(default_factory=dict)
    unset: dict[str, None] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)
    from_default: bool = False

    def refuse(self, name: str, message: str, code: ErrorCode) -> None:
        self.refused[name] = None
        self.wrong[message, code] = None


def _default(text: str, state: _Expansion) -> str:
    """A default's own text: `$$` is a dollar, a variable is an error."""
    pieces = text.split("$$")
    if any("${" in piece for piece in pieces):
        message = "`${` begins a variable, which a default cannot hold: write its value out; `$$` is a dollar"
        state.wrong[message, ErrorCode.VALUE] = None
    return "$".join(pieces)
