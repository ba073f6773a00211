"""The form of the arguments of ssh and autossh: which options take a value, where the destination is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from reconciler.cli.ssh_import.sources.values import Argument

SSH_VALUES = frozenset("BbcDEeFIiJLlmOoPpQRSWw")  # options of ssh(1) with a value
_FORWARDS = frozenset("LRDW")


def autossh_to_ssh(words: Sequence[Argument]) -> tuple[list[Argument], str]:
    """Remove the options of autossh(1) itself: `-M PORT`, `-f`, `-V`. Returns the value of -M too, "" without one."""
    made: list[Argument] = []
    monitor = ""
    left = list(reversed(words))
    while left:
        word = left.pop()
        if not word.text.startswith("-") or len(word.text) < 2 or word.text == "--":
            made.append(word)
            if word.text == "--":
                break
            continue
        kept = "-"
        value: Argument | None = None
        for position, letter in enumerate(word.text[1:], start=2):
            rest = word.text[position:]
            if letter == "M":
                monitor = rest or (left.pop().text if left else "")
                break
            if letter in SSH_VALUES:
                kept += letter + rest
                value = left.pop() if not rest and left else None
                break
            kept += "" if letter in "fV" else letter
        if kept != "-":
            made.append(Argument(kept, word.unknown))
        if value is not None:
            made.append(value)
    return [*made, *reversed(left)], monitor


def needed(words: Sequence[Argument]) -> Iterator[Argument]:
    """Yield the arguments that ssh itself reads: not the command that it runs on the server."""
    left = list(reversed(words))
    has_host = False
    while left:
        word = left.pop()
        is_option = word.text.startswith("-") and len(word.text) > 1
        if not is_option and has_host:
            return
        yield word
        if word.text == "--":
            continue
        has_host = has_host or not (is_option or word.unknown is not None)
        if is_option and left and _wants_value(word.text):
            yield left.pop()


def has_forward(words: Sequence[Argument]) -> bool:
    """Return True if the words contain -L, -R, -D or -W as ssh writes them, or -N."""
    return any(_has_forward(word.text) for word in words)


def is_control(words: Sequence[Argument]) -> bool:
    """Return True if ssh only asks a running ssh (`-O check`) or prints something (`-V`)."""
    texts = [word.text for word in words]
    if any(text in ("-V", "-G", "-Q") for text in texts):
        return True
    asked = next((after for before, after in pairwise([*texts, ""]) if before == "-O"), "forward")
    return asked != "forward"


def _wants_value(text: str) -> bool:
    """Return True if the last letter of `-NL` takes the next word as its value."""
    first = next((at for at, letter in enumerate(text) if letter in SSH_VALUES), 0)
    return first > 0 and first == len(text) - 1


def _has_forward(text: str) -> bool:
    if not text.startswith("-") or text.startswith("--"):
        return False
    for letter in text[1:]:
        if letter in _FORWARDS or letter == "N":
            return True
        if letter in SSH_VALUES or not (letter.isascii() and letter.isalnum()):
            return False
    return False
