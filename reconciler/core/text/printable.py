r"""Escapes text from a file, a server or a client for terminals, log lines and messages.

Such text may contain characters that control a terminal, start a new line, reverse the direction of a line or are
invisible, so that the displayed text differs from the real one. They become escapes (`\x1b`, `\u202e`).
"""

from __future__ import annotations

import re

# str.isprintable() is False for the Unicode categories Cc, Cf, Cs, Co, Cn, Zl, Zp, and Zs except for the space. The
# characters below are letters, marks or symbols by category, and yet invisible (Default_Ignorable_Code_Point, and the
# blank Braille pattern).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str, limit: int = 0) -> str:
    """Return the text with control, direction and invisible characters escaped, cut to `limit` characters (0: all)."""
    if limit:
        text = text[: limit + 1]
    if not text.isprintable() or (not text.isascii() and _INVISIBLE.search(text)):
        text = "".join(map(_escaped, text))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def _escaped(character: str) -> str:
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    return character.encode("unicode_escape").decode()
