"""Finds the parts of a file that could not be parsed, and suppresses errors that may be only consequences of them.

Input: the nodes of a file, with placeholders for what `read` rejected. Output: the paths of these gaps, and whether a
problem may be only a consequence of one.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.config.problem import ErrorCode, Problem, WarningCode
from reconciler.config.schema.violations import dotted
from reconciler.config.syntax.nodes import Items, Node, Table, is_invalid

UnparsedPaths = frozenset[str]  # paths of values that are unknown in whole or in part

_ABSENCES = (ErrorCode.MISSING, WarningCode.NO_LOGIN, WarningCode.OPEN_PROXY)


def unparsed_paths_in(root: Table) -> UnparsedPaths:
    return frozenset(_gaps(root, ""))


def _gaps(node: Node, path: str) -> Iterator[str]:
    match node:
        case Table():
            if node.partial:
                yield path
            for entry in node:
                if not entry.key.startswith("x-"):
                    yield from _gaps(entry.value, dotted(path, entry.key))
        case Items():
            for index, value in enumerate(node.values):
                yield from _gaps(value, dotted(path, index))
        case _:
            if is_invalid(node):
                yield path


def may_follow(problem: Problem, gaps: UnparsedPaths) -> bool:
    """Return True if the missing key may be part of a value, or of defaults, that could not be parsed."""
    if problem.code is ErrorCode.VALUE:
        return problem.path in gaps  # for example, a mapping that has neither of two keys
    return problem.code in _ABSENCES and any(_concerns(gap, problem.path) for gap in gaps)


def _concerns(gap: str, path: str) -> bool:
    return gap in ("", path) or gap.startswith("defaults") or path.startswith((f"{gap}.", f"{gap}["))


def may_define(root: Table, gaps: UnparsedPaths, name: str) -> bool:
    """Return True if a part of the file that could not be parsed may define the target."""
    targets = root.get("targets")
    if not gaps.isdisjoint(("", "targets")):
        return True
    entry = targets.entry(name) if isinstance(targets, Table) else None
    return entry is not None and not isinstance(entry.value, Table)
