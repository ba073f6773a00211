"""Forms of text that several messages share."""

from __future__ import annotations

import pytest

from reconciler.core.observed import Phase, Reason
from reconciler.core.text.forms import and_more, phase_text


@pytest.mark.parametrize(
    ("items", "separator", "text"),
    [
        ([], ", ", ""),
        (["a"], ", ", "a"),
        (["a", "b"], ", ", "a, b"),
        (["a", "b", "c"], ", ", "a, b and 1 more"),
        (["a", "b", "c", "d"], "; ", "a; b; and 2 more"),
    ],
)
def test_items_beyond_the_limit_are_counted(items: list[str], separator: str, text: str) -> None:
    assert and_more(items, 2, separator) == text


@pytest.mark.parametrize(
    ("reason", "details", "text"),
    [
        (None, (), "down"),
        (Reason.REFUSED, ("",), "down (refused)"),
        (None, ("why",), "down: why"),
        (Reason.REFUSED, ("127.0.0.1:1", "why"), "down (refused): 127.0.0.1:1: why"),
    ],
)
def test_a_phase_is_followed_by_its_reason_and_details(
    reason: Reason | None, details: tuple[str, ...], text: str
) -> None:
    assert phase_text(Phase.DOWN, reason, *details) == text
