"""Decides tests of `test`, `[` and `[[`, if the text is enough to do so."""

from __future__ import annotations

from reconciler.cli.ssh_import.sources.shell.scope import Scope
from reconciler.cli.ssh_import.sources.values import Argument


def decided(words: list[Argument], scope: Scope) -> bool | None:
    """Return the result of a test, None if it depends on more than the text."""
    negated = bool(words) and words[0].text == "!"
    words = words[1:] if negated else words
    result: bool | None = None
    match [word.text for word in words]:
        case ["-z" | "-n" as operator, text]:
            unknown = words[1].unknown
            is_unset = unknown is not None and unknown.variable.isidentifier() and scope.get(unknown.variable) is None
            if unknown is None or is_unset:
                result = (is_unset or not text) == (operator == "-z")
        case [left, "=" | "==" | "!=" as operator, right] if words[0].unknown is None and words[2].unknown is None:
            result = (left == right) == (operator != "!=")
        case [text]:
            result = None if words[0].unknown is not None else bool(text)
        case _:
            pass
    return None if result is None else result != negated
