"""Secrets: values that never show themselves, and the places they come from.

A spec names the *source* of a secret, not its content, wherever the file allows it: the content is read at the
moment it is used, so a rotated file counts at the next connect and no copy lies about in memory meanwhile.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


class Secret:
    """A value whose repr is ``Secret(***)``; two are equal when their digests are.

    The digest is compared, not the text, so that a comparison takes the same time wherever the texts differ.
    """

    __slots__ = ("_digest", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()

    def reveal(self) -> str:
        """The text itself. Call it where the value leaves for its one user, never to build a message."""
        return self._value

    def same_text(self, text: str) -> bool:
        """Whether this is the secret, without a place where the two texts meet."""
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
    """The secret stands in the file itself (accepted with a warning)."""

    secret: Secret

    def __str__(self) -> str:
        return "a literal in the file"


@dataclass(frozen=True, slots=True)
class FromFile:
    """The content of a file, absolute path.

    `variable`: where the path came from, if that might rather be the secret itself; it is then never shown.
    `within`: the directory that the file must lie in when it is read, "" for anywhere.
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
    """Return True if the text looks like `user:password@host` or `token=...`: no message quotes it."""
    return "=" in text or ":" in text[: max(text.rfind("@"), 0)]
