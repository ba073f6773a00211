"""The variables of shell text. A variable is unknown after a condition if its branches set it differently."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from reconciler.cli.ssh_import.sources.values import Argument, Unknown, WorkBudget, no_value

_Result = TypeVar("_Result")
Value = Argument | tuple[Argument, ...]  # a tuple is an array


class Scope:
    """Variables, exported names and positional parameters."""

    def __init__(self, environ: Mapping[str, Argument], budget: WorkBudget) -> None:
        self.zero: Argument | None = None  # $0
        self.exported: dict[str, None] = {}
        self.exports_all = False
        self.sourced = ""  # a file that the text reads variables from
        self._environ = environ
        self._variables: dict[str, Value] = {}
        self._budget = budget
        self._journals: list[dict[str, Value | None]] = []
        self._locals: list[dict[str, Value | None]] = []  # of each function that runs: the values before it

    def get(self, name: str) -> Value | None:
        """Return the value, None if the variable is not set in the text or its environment."""
        return self._variables.get(name, self._environ.get(name))

    @property
    def positional(self) -> tuple[Argument, ...] | None:
        """The positional parameters, None if they are not known. They are kept as the array `@`."""
        value = self._variables.get("@")
        return value if isinstance(value, tuple) else None

    @positional.setter
    def positional(self, value: tuple[Argument, ...] | None) -> None:
        self._assign("@", Argument("$@") if value is None else value)

    def shift(self, count: str) -> None:
        """Remove the first positional parameters, or none if there are fewer, as bash does."""
        before = self.positional
        if before is None or not re.fullmatch(r"[0-9]{1,5}", count):
            self.positional = None
        elif int(count) <= len(before):
            self.positional = before[int(count) :]

    def _assign(self, name: str, value: Value) -> None:
        if self._journals:
            self._journals[-1].setdefault(name, self._variables.get(name))
        self._variables[name] = value

    def set(self, name: str, value: Value) -> None:
        self._assign(name, value)
        if self.exports_all:
            self.exported[name] = None

    def make_local(self, name: str) -> None:
        """Restore a variable when the function that runs ends."""
        if self._locals:
            self._locals[-1].setdefault(name, self._variables.get(name))

    def call(self, arguments: tuple[Argument, ...], work: Callable[[], _Result]) -> _Result:
        """Do the work of a function, with its own positional parameters and local variables."""
        before, self.positional = self.positional, arguments
        self._locals.append({})
        try:
            return work()
        finally:
            for name, value in self._locals.pop().items():
                if value is not None:
                    self._assign(name, value)
                else:
                    self._variables.pop(name, None)
            self.positional = before

    def missing(self, name: str) -> Unknown:
        hint = f", it may be set in {self.sourced}" if self.sourced else ""
        return no_value(f"${{{name}}}" if name.isdecimal() and len(name) > 1 else f"${name}", hint)

    def environment(self) -> dict[str, Argument]:
        """Return the variables that the text exports."""
        self._budget.spend(len(self.exported))
        found = ((name, self._variables.get(name)) for name in self.exported)
        return {name: value for name, value in found if isinstance(value, Argument)}

    # --- conditions -----------------------------------------------------------------------------------------------

    def attempt(self, work: Callable[[], object]) -> dict[str, Value]:
        """Do work, undo its assignments, and return them."""
        self._journals.append({})
        try:
            work()
        finally:
            before = self._journals.pop()
            changes = {name: self._variables[name] for name in before if name in self._variables}
            self._budget.spend(len(before))
            for name, value in before.items():
                if value is None:
                    self._variables.pop(name, None)
                else:
                    self._variables[name] = value
        return changes

    def join(self, branches: Iterable[dict[str, Value]]) -> None:
        """Apply the assignments of the branches of a condition. A variable on which they differ becomes unknown."""
        changes = list(branches)
        for name in {name: None for one in changes for name in one}:
            base = self.get(name)
            self._budget.spend(len(changes))
            values = [one.get(name, base) for one in changes]
            first = values[0]
            if first is not None and all(value == first for value in values):
                self.set(name, first)
            else:
                reason = f"`${name}` depends on a condition: write its value in its place"
                self.set(name, Argument(f"${{{name}}}", Unknown(reason, name)))
