"""`${VAR}`, `${VAR:-default}` and `$$` in values.

In: a file's nodes and the environment. Out: the same nodes with the values put in, each remembering which variables
it came from, so that messages name the variable and never its content. An unset one stays as it is written, and is
known where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from reconciler.config.nodes import Entry, Items, Node, Scalar, Table
from reconciler.config.problem import ErrorCode, Place, Problem
from reconciler.config.read import typed
from reconciler.config.sentences import dotted

_TOKEN = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{")
_IN_DEFAULT = re.compile(r"\$\$|\$\{")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Variables:
    """The environment as far as the file may name it. `prefixes` None: all of it."""

    def __init__(self, environ: Mapping[str, str], prefixes: tuple[str, ...] | None) -> None:
        self.environ = environ
        self.prefixes = prefixes

    def refusal(self, name: str) -> str:
        """Why the file may not name that variable, or ""."""
        if self.prefixes is None or name.startswith(self.prefixes):
            return ""
        allowed = ", ".join(f"{prefix}*" for prefix in self.prefixes) or "none"
        return f"{name} may not be read: --allow-env allows {allowed}"

    def expand(self, root: Table, file: str) -> tuple[Table, list[Problem]]:
        problems: list[Problem] = []
        return self._table(root, Place(file), problems), problems

    def _node(self, node: Node, at: Place, problems: list[Problem]) -> Node:
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
        names: list[str] = []
        unset: list[str] = []
        refused: list[str] = []
        wrong: list[tuple[str, ErrorCode]] = []
        from_default = False

        def value_of(found: re.Match[str]) -> str:
            nonlocal from_default
            if found[0] == "$$":
                return "$"
            if found[1] is None:
                hint = "write ${NAME} or ${NAME:-default}; `$$` is a dollar"
                wrong.append((f"`${{` begins a variable: {hint}", ErrorCode.VALUE))
                return found[0]
            names.append(found[1])
            if refusal := self.refusal(found[1]):
                refused.append(found[1])
                wrong.append((refusal, ErrorCode.FORBIDDEN))
                return f"${{{found[1]}}}"
            value = self.environ.get(found[1])
            if found[2] and not value:
                from_default = True
                return _IN_DEFAULT.sub(dollar, found[3] or "")
            if value is None:
                unset.append(found[1])
                return found[0]
            if _CONTROL.search(value):
                refused.append(found[1])
                wrong.append((f"the value of ${{{found[1]}}} holds control characters", ErrorCode.VALUE))
                return f"${{{found[1]}}}"
            return value

        def dollar(found: re.Match[str]) -> str:
            if found[0] == "$$":
                return "$"
            hint = "write its value out; `$$` is a dollar"
            wrong.append((f"`${{` begins a variable, which a default cannot hold: {hint}", ErrorCode.VALUE))
            return found[0]

        result = _TOKEN.sub(value_of, text)
        problems.extend(Problem.at(at, message, code) for message, code in wrong)
        whole = _TOKEN.fullmatch(text)
        retyped = typed(result) if whole and names else None
        return replace(
            node,
            value=result if retyped is None else retyped,
            text=result,
            variables=tuple(names),
            whole=(whole[1] or "") if whole and not from_default else "",
            unset=(*unset, *refused),
            refused=tuple(refused),
        )
