"""Collects the errors and warnings of one build of the specs, so that all are reported at once.

An error about a value that the schema has already rejected is dropped. A warning that `x-allow` beside the field waives
is dropped. A variable that is not set breaks its target or tunnel and nothing else. For each file, one problem more
than the limit is kept: `bounded` replaces it by a note that there are more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from reconciler.config.problem import Code, ErrorCode, Location, PolicyCode, Problem, WarningCode, by_place
from reconciler.config.syntax.nodes import Items, Scalar, Table
from reconciler.config.syntax.yaml_reader import MAX_PROBLEMS
from reconciler.core.text.forms import and_more

_MAX_SHOWN = 8  # variables in one message


class Report:
    """The errors and warnings found so far.

    `broken` maps a target, or the place of a tunnel, to the reason that it cannot be used although its file is valid.
    `already` are the problems that the schema has reported.
    """

    def __init__(self, already: Iterable[Problem]) -> None:
        self.errors: dict[Problem, None] = {}  # an ordered set
        self.warnings: dict[Problem, None] = {}
        self.broken: dict[str, str] = {}
        self.not_permitted: set[str] = set()  # files that the policy refuses, also where the limit drops the error
        self.overrides_schema: set[tuple[str, int, int]] = set()
        self._errors_of: Counter[str] = Counter()  # by file
        self._warnings_of: Counter[str] = Counter()
        self._reported = {(p.file, p.line, p.column) for p in already}

    def wrong_value(self, place: Location, message: str, *, overrides_schema: bool = False) -> None:
        """Add an error about a value. With `overrides_schema` it replaces the less specific one of the schema."""
        if overrides_schema:
            self.overrides_schema.add((place.file, place.line, place.column))
        if overrides_schema or (place.file, place.line, place.column) not in self._reported:
            self.error(place, message, ErrorCode.VALUE)

    def error(self, place: Location, message: str, code: Code, other: str = "") -> None:
        problem = Problem.at(place, message, code, other)
        if isinstance(code, PolicyCode):
            self.not_permitted.add(place.file)
        if problem not in self.errors and not self.is_full(place.file):
            self.errors[problem] = None
            self._errors_of[place.file] += 1

    def is_full(self, file: str) -> bool:
        """Return True if another error of this file would not be shown, so that its message need not be made."""
        return self._errors_of[file] > MAX_PROBLEMS

    def warn(self, place: Location, message: str, code: WarningCode, *beside: Table) -> None:
        """Add a warning, unless the `x-allow` of a mapping in `beside` waives it."""
        if self._warnings_of[place.file] > MAX_PROBLEMS or any(code in _waived(table) for table in beside):
            return
        problem = Problem.at(place, message, code)
        if problem not in self.warnings:
            self.warnings[problem] = None
            self._warnings_of[place.file] += 1

    def refuse(self, place: Location, message: str, code: WarningCode, *beside: Table) -> None:
        """Add an error of `WAIVABLE_ERRORS`, unless the `x-allow` of a mapping in `beside` waives it."""
        if not any(code in _waived(table) for table in beside):
            self.error(place, message, code)

    def unset(self, place: Location, node: Scalar, owner: str, *beside: Table) -> None:
        """Add a warning about the unset variables of a value, and mark its owner as broken."""
        refused = frozenset(node.refused)
        found = [f"${{{name}}}" for name in dict.fromkeys(node.unset) if name not in refused]
        if not found:
            return
        what = f"{and_more(found, _MAX_SHOWN)} is not set"
        self.warn(place, what, WarningCode.UNSET_VARIABLE, *beside)
        self._break(owner, place, f"{what}: set it in the environment of this process")

    def unknown_directory(self, place: Location, message: str, owner: str, *beside: Table) -> None:
        """Add a warning about a path that starts with an unknown `~` or `~user`, and mark its owner as broken."""
        self.warn(place, message, WarningCode.UNSET_VARIABLE, *beside)
        self._break(owner, place, message)

    def _break(self, owner: str, place: Location, message: str) -> None:
        self.broken.setdefault(owner, f"{place}: {place.path}: {message}")


def bounded(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sort by place, remove duplicates, and keep the first of each file, with a note if there are more."""
    shown: dict[str, list[Problem]] = {}
    for problem in by_place(problems):
        own = shown.setdefault(problem.file, [])
        if len(own) < MAX_PROBLEMS:
            own.append(problem)
        elif len(own) == MAX_PROBLEMS:
            message = f"more than {MAX_PROBLEMS} problems: fix these to see the others"
            own.append(Problem.at(Location(problem.file), message, ErrorCode.VALUE))
    return tuple(problem for own in shown.values() for problem in own)


def _waived(table: Table) -> frozenset[object]:
    codes = table.get("x-allow")
    if not isinstance(codes, Items):
        return frozenset()
    return frozenset(code.value for code in codes.values if isinstance(code, Scalar))
