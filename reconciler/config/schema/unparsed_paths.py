"""What is not known of a file because it was refused, and what therefore may be no mistake at all.

In: a file's nodes, with the holes that `read` left. Out: the paths of the gaps, and whether something that was found
may be no more than a consequence of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.config.problem import ErrorCode, Problem, WarningCode
from reconciler.config.schema.violations import dotted
from reconciler.config.syntax.nodes import Items, Node, Table, is_invalid

UnparsedPaths = frozenset[str]  # paths of values that are not known, or not wholly

_MISSED = (ErrorCode.MISSING, WarningCode.NO_LOGIN, WarningCode.OPEN_PROXY)


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
    """Whether what is missed may stand in a gap: in what was refused around it, or in defaults that were."""
    if problem.code is ErrorCode.VALUE:
        return problem.path in gaps  # such as that a mapping has neither of two keys
    return problem.code in _MISSED and any(_concerns(gap, problem.path) for gap in gaps)


def _concerns(gap: str, path: str) -> bool:
    return gap in ("", path) or gap.startswith("defaults") or path.startswith((f"{gap}.", f"{gap}["))


def may_define(root: Table, gaps: UnparsedPaths, name: str) -> bool:
    """Whether the file may say more of that target than could be read."""
    targets = root.get("targets")
    if not gaps.isdisjoint(("", "targets")):
        return True
    entry = targets.entry(name) if isinstance(targets, Table) else None
    return entry is not None and not isinstance(entry.value, Table)
