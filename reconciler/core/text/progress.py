"""Which tunnels a wait is for, how far they are, and when no retry helps. Pure.

`tunnels wait`, `tunnels run -- CMD` and the Python API use this rule. The words of phases are those of `Phase`, written
out because the client of the control socket imports this module and not the rest of the core.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from reconciler.core.text.forms import and_more


def matches(tunnel: str, patterns: Iterable[str]) -> bool:
    """Return True if one of the globs matches this tunnel's id, or the name of its target."""
    target = tunnel.partition("/")[0]
    return any(fnmatchcase(tunnel, pattern) or fnmatchcase(target, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the tunnels of a wait are. `is_hopeless`: each missing tunnel needs action, so that no retry helps."""

    up: int
    missing: tuple[str, ...]
    is_hopeless: bool

    @classmethod
    def of(cls, tunnels: Iterable[tuple[str, str, bool]], patterns: Collection[str] = ()) -> Self:
        """Return the progress of the tunnels that `patterns` match, of all if there are none.

        Each tunnel is given by its id, its phase, and whether it needs action.
        """
        up, missing, is_hopeless = 0, list[str](), True
        for tunnel, phase, needs_action in tunnels:
            if patterns and not matches(tunnel, patterns):
                continue
            if phase == "up":
                up += 1
            elif _is_awaited(tunnel, phase, patterns):
                missing.append(tunnel)
                is_hopeless = is_hopeless and needs_action
        return cls(up, tuple(missing), is_hopeless and bool(missing))

    def __str__(self) -> str:
        """Return the progress of a start: `17 of 20 up, waiting for prod/db, prod/web and 1 more`."""
        return f"{self.up} of {self.up + len(self.missing)} up, waiting for {and_more(self.missing, 2)}"


def _is_awaited(tunnel: str, phase: str, patterns: Collection[str]) -> bool:
    """Return True if a tunnel that is not up is awaited. One that is off is awaited only if its full id is given."""
    return tunnel in patterns if phase == "off" else phase != "standby"
