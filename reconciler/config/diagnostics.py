"""Gathers what is wrong and what is doubtful while specs are built, so that all of it is said at once.

Errors of values that the schema already spoke about are not said twice; warnings that an `x-allow` beside the field
names are not said at all; a variable that is not set breaks its target and nothing else. Of one file no more are
gathered than are told, and one, which shows that there is more: `bounded` puts a sentence in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from reconciler.config.problem import ErrorCode, Place, Problem, WarningCode, by_place
from reconciler.config.syntax.nodes import Items, Scalar, Table
from reconciler.config.syntax.yaml_reader import MAX_PROBLEMS

_SHOWN = 8  # variables in one message


class Report:
    """`broken` has, by target, why it cannot be used at run although its file is right."""

    def __init__(self, already: Iterable[Problem]) -> None:
        self.errors: dict[Problem, None] = {}  # a set that keeps its order
        self.warnings: dict[Problem, None] = {}
        self.broken: dict[str, str] = {}
        self.overrides_schema: set[tuple[str, int, int]] = set()
        self._errors_of: Counter[str] = Counter()  # by file
        self._warnings_of: Counter[str] = Counter()
        self._spoken = {(p.file, p.line, p.column) for p in already}

    def wrong_value(self, place: Place, message: str, *, overrides_schema: bool = False) -> None:
        """`overrides_schema`: says more than the schema can, so it takes the place of what the schema said."""
        if overrides_schema:
            self.overrides_schema.add((place.file, place.line, place.column))
        if overrides_schema or (place.file, place.line, place.column) not in self._spoken:
            self.error(place, message, ErrorCode.VALUE)

    def error(self, place: Place, message: str, code: ErrorCode | WarningCode, other: str = "") -> None:
        problem = Problem.at(place, message, code, other)
        if problem not in self.errors and not self.is_full(place.file):
            self.errors[problem] = None
            self._errors_of[place.file] += 1

    def is_full(self, file: str) -> bool:
        """Whether another error of this file would not be told: it need not be put into words."""
        return self._errors_of[file] > MAX_PROBLEMS

    def warn(self, place: Place, message: str, code: WarningCode, *beside: Table) -> None:
        """`beside`: the mappings whose `x-allow` may waive it."""
        if self._warnings_of[place.file] > MAX_PROBLEMS or any(code in _waived(table) for table in beside):
            return
        problem = Problem.at(place, message, code)
        if problem not in self.warnings:
            self.warnings[problem] = None
            self._warnings_of[place.file] += 1

    def refuse(self, place: Place, message: str, code: WarningCode, *beside: Table) -> None:
        """An error of `WAIVABLE_ERRORS`. `beside`: the mappings whose `x-allow` may waive it."""
        if not any(code in _waived(table) for table in beside):
            self.error(place, message, code)

    def unset(self, place: Place, node: Scalar, target: str, *beside: Table) -> None:
        refused = frozenset(node.refused)
        found = [f"${{{name}}}" for name in dict.fromkeys(node.unset) if name not in refused]
        if not found:
            return
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        names = ", ".join(found[:_SHOWN]) + more
        self.warn(place, f"{names} is not set", WarningCode.UNSET_VARIABLE, *beside)
        message = f"{place}: {place.path}: {names} is not set: set it where this process is started"
        self.broken.setdefault(target, message)


def bounded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By place, each once; of each file the first ones, and a last one that says where there are more."""
    told: dict[str, list[Problem]] = {}
    for problem in by_place(problems):
        own = told.setdefault(problem.file, [])
        if len(own) < MAX_PROBLEMS:
            own.append(problem)
        elif len(own) == MAX_PROBLEMS:
            message = f"there are more than these {MAX_PROBLEMS}: the others are told when these are mended"
            own.append(Problem.at(Place(problem.file), message, ErrorCode.VALUE))
    return tuple(problem for own in told.values() for problem in own)


def _waived(table: Table) -> frozenset[object]:
    codes = table.get("x-allow")
    if not isinstance(codes, Items):
        return frozenset()
    return frozenset(code.value for code in codes.values if isinstance(code, Scalar))
