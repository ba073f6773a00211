"""Secrets: values that are never printed, and the sources that they come from.

A spec names the *source* of a secret, not its content, wherever the file allows it. The content is read when it is
used, so a rotated file takes effect at the next connect, and no copy stays in memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


class Secret:
    """A text whose repr is ``Secret(***)``.

    Comparison uses digests, so that its duration does not depend on where the texts differ.
    """

    __slots__ = ("_digest", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()

    def reveal(self) -> str:
        """Return the text. Call this only where the value is used, never to build a message."""
        return self._value

    def same_text(self, text: str) -> bool:
        """Return True if `text` is the secret. The comparison is the same as for two secrets."""
        return self == Secret(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Inline:
    """A secret written in the configuration file itself (accepted with a warning)."""

    secret: Secret

    def __str__(self) -> str:
        return "a literal in the file"


@dataclass(frozen=True, slots=True)
class FromFile:
    """The content of a file.

    path       absolute
    variable   the environment variable that held the path, if its value may be the secret itself and is not shown
    within     the directory that must contain the file when it is read, "" for any
    """

    path: str
    variable: str = ""
    within: str = ""

    def __str__(self) -> str:
        return f"the path in ${self.variable}" if self.variable else self.path

    def __repr__(self) -> str:
        return f"FromFile({self})"


@dataclass(frozen=True, slots=True)
class FromEnv:
    """The value of an environment variable."""

    name: str

    def __str__(self) -> str:
        return f"${self.name}"


Source = Inline | FromFile | FromEnv


def may_hold_secret(text: str) -> bool:
    """Return True if the text looks like `user:password@host` or `token=...`. Messages must not quote it then."""
    return "=" in text or ":" in text[: max(text.rfind("@"), 0)]
