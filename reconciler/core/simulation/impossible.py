"""The error for an action that cannot be carried out, which means that the planner has a bug."""

from __future__ import annotations


class ImpossibleError(Exception):
    """Raised when the planner asks for an action that cannot be carried out, or never stops asking."""


def require(holds: bool, expected: str, context: object) -> None:
    """Raise ImpossibleError unless the condition holds. `expected` names the condition."""
    if not holds:
        raise ImpossibleError(f"expected {expected}: {context}")
