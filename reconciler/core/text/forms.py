"""Forms of text that several messages share."""

from __future__ import annotations

from collections.abc import Sequence


def and_more(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """Join at most `limit` items and count the others: `a, b and 3 more`, or `a; b; and 3 more`."""
    shown, others = separator.join(items[:limit]), len(items) - limit
    if others <= 0:
        return shown
    return f"{shown}{' ' if separator == ', ' else separator}and {others} more"


def phase_text(phase: str, reason: str | None, *details: str) -> str:
    """Return a phase with its reason and the details that are not empty: `down (refused): connection refused`."""
    return ": ".join([f"{phase} ({reason})" if reason else phase, *filter(None, details)])
