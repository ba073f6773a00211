"""Why something is off, as text."""

from __future__ import annotations

from reconciler.core.off import DISABLED, Off, OffCause


def test_a_timed_pause_names_its_end_in_utc() -> None:
    assert str(Off(OffCause.PAUSED, 100.9)) == "paused until 1970-01-01T00:01:40Z"
    assert str(Off(OffCause.PAUSED)) == "paused"
    assert str(DISABLED) == "disabled"
