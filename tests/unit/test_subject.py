"""Subjects: their text, and the target and tunnel that they name."""

from __future__ import annotations

import pytest

from reconciler.core.subject import CONFIG, Subject


@pytest.mark.parametrize(
    ("subject", "text", "target", "tunnel"),
    [
        (Subject("target", "prod"), "target prod", "prod", None),
        (Subject("tunnel", "prod/pg"), "tunnel prod/pg", "prod", "prod/pg"),
        (CONFIG, "config", "", None),
    ],
)
def test_a_subject_has_the_text_and_fields_of_log_lines(
    subject: Subject, text: str, target: str, tunnel: str | None
) -> None:
    assert Subject.parse(text) == subject
    assert (str(subject), f"{subject}", subject.target, subject.tunnel) == (text, text, target, tunnel)
