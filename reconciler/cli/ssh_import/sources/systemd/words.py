"""Words of systemd units: quotes, escapes, and variables in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.cli.ssh_import.sources.values import Argument, Unknown, no_value

_PIECE = re.compile(r"([ \t\n]+)|\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|\\(.)|([^ \t\n\"'\\]+)|(.)", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_WHOLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


@dataclass(frozen=True, slots=True)
class UnitWord:
    text: str
    quoted: bool


def split(text: str) -> list[UnitWord]:
    """Split a setting into words. A quote that is not closed is kept as a character."""
    words: list[UnitWord] = []
    parts: list[str] | None = None
    quoted = False
    for found in _PIECE.finditer(text):
        if found[1] is not None:
            if parts is not None:
                words.append(UnitWord("".join(parts), quoted))
            parts, quoted = None, False
            continue
        parts = parts or []
        if found[2] is not None or found[3] is not None:
            quoted = True
            parts.append(_ESCAPE.sub(_character, found[2] if found[2] is not None else found[3]))
        elif found[4] is not None:
            quoted = quoted or found[4] == ";"
            parts.append(_ESCAPE.sub(_character, found[0]))
        else:
            parts.append(found[0])
    return [*words, UnitWord("".join(parts), quoted)] if parts is not None else words


def _character(found: re.Match[str]) -> str:
    code = found[1]
    if len(code) == 3:
        return chr(int(code[1:], 16) if code[0] == "x" else int(code, 8))
    return _SIMPLE.get(code, code)


def split_argument(text: str) -> str | None:
    """Return the name in a word that is `$NAME`, which stands for any number of words."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found is not None else None


def replaced(word: Argument, environment: Mapping[str, Argument], hint: str) -> Argument:
    """Replace `${NAME}` inside a word. `$NAME` is replaced only if it is the whole word."""
    unknown: list[Unknown | None] = [word.unknown]

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if found[2] is not None:
            reason = f"`${found[2]}` inside a word is not replaced by systemd: write `${{{found[2]}}}`"
            unknown.append(Unknown(reason, found[2]))
            return found[0]
        known = environment.get(found[1])
        if known is None:
            unknown.append(no_value(f"${{{found[1]}}}", hint))
            return found[0]
        unknown.append(known.unknown)
        return known.text

    text = _VARIABLE.sub(value, word.text) if "$" in word.text else word.text
    return Argument(text, next((one for one in unknown if one is not None), None))
