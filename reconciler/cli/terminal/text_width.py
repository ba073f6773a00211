"""The width of text on a terminal, in columns: East Asian characters take two, combining ones none."""

from __future__ import annotations

import re
from unicodedata import category, east_asian_width

_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def text_width(text: str) -> int:
    """Return the columns that the text takes. Colours take none."""
    text = _COLOUR.sub("", text)
    return len(text) if text.isascii() else sum(map(_columns, text))


def start_of(text: str, columns: int) -> str:
    """Return as much of the start as fits."""
    for index, character in enumerate(text):
        columns -= _columns(character)
        if columns < 0:
            return text[:index]
    return text


def end_of(text: str, columns: int) -> str:
    """Return as much of the end as fits."""
    for index in range(len(text), 0, -1):
        columns -= _columns(text[index - 1])
        if columns < 0:
            return text[index:]
    return text


def units(word: str) -> list[str]:
    """Split a word where a line may end: beside each wide character, since their scripts have no spaces."""
    made = [""]
    for character in word:
        if _columns(character) == 2:
            made += [character, ""]
        else:
            made[-1] += character  # also a mark that combines with the wide character before it
    return [unit for unit in made if unit] or [""]


def _columns(character: str) -> int:
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
