"""The values that the readers share: words of commands, the programs that a text starts, and the limit of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why the value of a word is not known.

    reason    for a message: what is missing and what to do
    variable  the variable that has no value, "" for another cause
    file      the file that contains the value, "" for another cause
    """

    reason: str
    variable: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """One word of a command. If it is not fully known, `text` has the variable as it was written."""

    text: str
    unknown: Unknown | None = None


@dataclass(frozen=True, slots=True)
class InputText:
    """The input of a command, written in the text itself."""

    content: Argument
    line: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A program that the text starts.

    where        the place, for messages
    words        the program and its arguments
    environment  variables that the text sets for it
    notes        remarks for the messages about the command
    documents    texts that it gets as input, or writes
    line         the line of the program; texts inside its arguments start at this line
    """

    where: str
    words: tuple[Argument, ...]
    environment: Mapping[str, Argument] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    documents: tuple[InputText, ...] = ()
    line: int = 1


class WorkLimitError(Exception):
    """The text asks for more work than is allowed."""


class WorkBudget:
    """Limits the work for one text: loops and functions can multiply it."""

    LIMIT = 2_000_000  # roughly characters; a thousand commands need a tenth of it

    def __init__(self) -> None:
        self._left = self.LIMIT

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise WorkLimitError


def joined(words: Sequence[Argument], between: str = "") -> Argument:
    """Join words to one word. If some of them are unknown, it is unknown for the reason of the first of these."""
    unknown = next((word.unknown for word in words if word.unknown is not None), None)
    return Argument(between.join(word.text for word in words), unknown)


def placeholder(shown: str) -> Unknown:
    """Return the reason for `<host>`, as in instructions."""
    return Unknown(f"`{shown}` is a placeholder: write the value in its place")


def no_value(variable: str, hint: str = "") -> Unknown:
    """Return the reason for a variable without a value."""
    shown = variable if variable.startswith("$") else f"${variable}"
    return Unknown(f"`{shown}` has no value here{hint}: write its value in its place", variable.lstrip("$"))
