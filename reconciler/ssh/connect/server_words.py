"""What a server says during one login: banners (RFC 4252 section 5.4) and texts beside prompts (RFC 4256).

The texts say why a login fails ("account expired", "system is booting up"), or what to do (a link to visit). They are
kept up to a limit, without the passwords of this login, and without control characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from reconciler.core.observed import Failure
from reconciler.core.text.printable import printable
from reconciler.system.redaction import redact

KEPT_MAX = 4096  # characters of all texts of one login
SHOWN_MAX = 400  # characters in a message
_TEXTS_MAX = 100  # read in one login: a server may send thousands
_LINKS = ("https://", "http://")


class ServerWords:
    """The texts of one login."""

    def __init__(self, secrets: Iterable[str], heard: Callable[[str], None]) -> None:
        """`secrets` are hidden in all texts; `heard` is called with each text."""
        self._secrets = [secret for secret in secrets if secret]
        self._heard = heard
        self._texts: list[tuple[int, str]] = []  # each with the number of credentials sent before it
        self._credentials = 0
        self._kept = 0
        self._read = 0
        self._tells_cause = False

    def credential_sent(self) -> None:
        """Note that the texts that follow are later than this credential."""
        self._credentials += 1

    def add(self, *texts: str, is_question: bool = False) -> None:
        """Keep the texts of one message, unless they repeat the message before.

        A text that follows a credential tells the cause of a failure, unless it belongs to a question.
        """
        self._read += 1
        if self._kept >= KEPT_MAX or self._read > _TEXTS_MAX:
            return
        text = self.clean("\n".join(texts))[: KEPT_MAX - self._kept]
        if text and text not in (kept for _, kept in self._texts[-1:]):
            self._kept += len(text)
            self._texts.append((self._credentials, text))
            self._tells_cause = self._tells_cause or (self._credentials > 0 and not is_question)
            self._heard(text)

    def clean(self, text: str) -> str:
        """Return the text on one line, without secrets, control characters and lines that only decorate."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        lines = (" ".join(line.split()) for line in text[: 4 * KEPT_MAX].splitlines())
        return printable(redact(" ".join(line for line in lines if any(map(str.isalnum, line)))))

    def forget(self) -> None:
        """Drop the secrets, and hear nothing more: the login is over."""
        self._secrets, self._kept = [], KEPT_MAX

    @property
    def last(self) -> str:
        """What the server said after the last credential, "" if nothing."""
        return self._quoted(self._credentials) if self._credentials else ""

    def explain(self, failure: Failure) -> Failure:
        """Return the failure with what the server said: after the first credential, else before it."""
        text = self._quoted(1) or self._quoted(0)
        fix = f"act on that, or {failure.advice}" if self._tells_cause else failure.fix
        return replace(failure, what=f"{failure.what}; it says {text}", fix=fix) if text else failure

    def _quoted(self, since: int) -> str:
        text = " ".join(text for number, text in self._texts if number >= since)
        return f"`{shortened(text, SHOWN_MAX)}`" if text else ""


def shortened(text: str, limit: int) -> str:
    """Cut the text to about `limit` characters: the middle is left out, except for the first link."""
    if len(text) <= limit:
        return text
    link = next((word for word in text.split() if any(start in word for start in _LINKS)), "")[: limit // 2]
    half = (limit - len(link)) // 2
    start, end = text[:half].rstrip(), text[-half:].lstrip()
    return f"{start} … {end}" if not link or link in start or link in end else f"{start} … {link} … {end}"
