"""A name of asyncssh that this program uses beyond the documented API, and the check that the name exists.

Each module of this package lists the names it uses in `SEAMS`. Without the check a renamed method would be found by an
exception at best: an assignment to a name that asyncssh no longer reads succeeds and changes nothing.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType

TESTED = "2.24.1"  # the version of asyncssh in requirements/, with which the tests run


@dataclass(frozen=True, slots=True)
class Seam:
    """A name of asyncssh.

    owner       the class or module that has it
    name        an attribute of the owner, or one that the owner's `__init__` sets
    parameters  the parameter names of a function, separated by spaces; None for a value
    """

    owner: type | ModuleType
    name: str
    parameters: str | None = None

    def __str__(self) -> str:
        return f"{self.owner.__name__.removeprefix('asyncssh.')}.{self.name}"

    def problem(self) -> str:
        """Return how the installed asyncssh differs, "" if it does not."""
        if not hasattr(self.owner, self.name):
            return "" if self.parameters is None and self.name in _set_by_init(self.owner) else f"has no {self}"
        if self.parameters is None:
            return ""
        found = " ".join(inspect.signature(getattr(self.owner, self.name)).parameters)
        return "" if found == self.parameters else f"has {self}({found}), expected ({self.parameters})"


def problems(seams: Iterable[Seam]) -> list[str]:
    """Return how the installed asyncssh differs from what the seams need."""
    return [problem for seam in seams if (problem := seam.problem())]


@cache
def _set_by_init(owner: type | ModuleType) -> set[str]:
    """Return the attributes that the `__init__` of a class and of its bases set."""
    bases = owner.__mro__ if isinstance(owner, type) else ()
    methods = [init for base in bases if isinstance(init := vars(base).get("__init__"), FunctionType)]
    return {step.argval for init in methods for step in dis.get_instructions(init) if step.opname == "STORE_ATTR"}
