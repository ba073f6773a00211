"""Gathers what is wrong and what is doubtful while specs are built, so that all of it is said at once.

Errors of values that the schema already spoke about are not said twice; warnings that an `x-allow` beside the field
names are not said at all; a variable that is not set breaks its target and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.config.nodes import Items, Scalar, Table
from reconciler.config.problem import ErrorCode, Place, Problem, WarningCode


class Report:
    """`broken` has, by target, why it cannot be used at run although its file is right."""

    def __init__(self, already: Iterable[Problem]) -> None:
        self.errors: dict[Problem, None] = {}  # a set that keeps its order
        self.warnings: dict[Problem, None] = {}
        self.broken: dict[str, str] = {}
        self.better: set[tuple[str, int, int]] = set()
        self._spoken = {(p.file, p.line, p.column) for p in already}

    def wrong_value(self, place: Place, message: str, *, better: bool = False) -> None:
        """`better`: says more than the schema can, so it takes the place of what the schema said."""
        if better:
            self.better.add((place.file, place.line, place.column))
        if better or (place.file, place.line, place.column) not in self._spoken:
            self.errors[Problem.at(place, message, ErrorCode.VALUE)] = None

    def error(self, place: Place, message: str, code: ErrorCode, other: str = "") -> None:
        self.errors[Problem.at(place, message, code, other)] = None

    def warn(self, place: Place, message: str, code: WarningCode, *beside: Table) -> None:
        """`beside`: the mappings whose `x-allow` may waive it."""
        if not any(code in _waived(table) for table in beside):
            self.warnings[Problem.at(place, message, code)] = None

    def unset(self, place: Place, node: Scalar, target: str, *beside: Table) -> None:
        names = ", ".join(f"${{{name}}}" for name in dict.fromkeys(node.unset))
        self.warn(place, f"{names} is not set", WarningCode.UNSET_VARIABLE, *beside)
        message = f"{place}: {place.path}: {names} is not set: set it where this process is started"
        self.broken.setdefault(target, message)


def _waived(table: Table) -> frozenset[object]:
    codes = table.get("x-allow")
    if not isinstance(codes, Items):
        return frozenset()
    return frozenset(code.value for code in codes.values if isinstance(code, Scalar))
