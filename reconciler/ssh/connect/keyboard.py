"""Answers keyboard-interactive authentication (RFC 4256). A server may ask anything, in any number of rounds.

What a prompt asks for is decided by its position and by whether its answer is shown, not by its words, which may be in
any language. The password answers the first prompt that is hidden and alone in its round. A program has no other
answer. A round without prompts is a message, and gets an empty answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from reconciler.core.observed import Failure, Reason

PROMPT_MAX = 160  # characters that are shown
PROMPTS_SHOWN = 3  # of one round; a round has thousands at most
_EXEMPT = "allow this user to log in without it"


def code_wanted(asks: str) -> Failure:
    """The failure for a hidden prompt that the password does not answer. `asks` names the server and the prompt."""
    return Failure(Reason.AUTH, f"{asks}, as for a one-time code or a new password, which no program can give", _EXEMPT)


class _Cause(Enum):
    """Why a round was not answered."""

    NO_PASSWORD = auto()  # the prompt may be for a password, and none is configured
    SECOND = auto()  # the password was given before
    AGAIN = auto()  # the same prompt, after the password answered it
    SEVERAL = auto()  # the round has several prompts
    VISIBLE = auto()  # the answer would be shown


class KeyboardDialogue:
    """The rounds of one login."""

    def __init__(self, passwords: Sequence[str]) -> None:
        self._passwords = list(passwords)
        self._has_password = bool(passwords)
        self._request_is_open = True  # a request may succeed: none was made since the last credential was accepted
        self._answered = ""  # the prompt that the password answered
        self._asked: tuple[str, ...] = ()  # the prompts of the round that was not answered
        self._cause: _Cause | None = None

    @property
    def answered(self) -> str:
        return self._answered

    def may_begin(self) -> bool:
        """Return True if a request is worth a try: the first one, and another after each accepted credential."""
        may, self._request_is_open = self._request_is_open, False
        return may

    def credential_accepted(self) -> None:
        self._request_is_open = True

    def forget(self) -> None:
        self._passwords.clear()

    def answer(self, prompts: Sequence[tuple[str, bool]]) -> list[str] | None:
        """Return the answers to the prompts, None if this program has none.

        A prompt is a text, and True if its answer is shown.
        """
        if not prompts:
            return []
        texts = tuple(text for text, _ in prompts)
        cause = self._obstacle(texts, any(is_shown for _, is_shown in prompts))
        if cause is not None:
            self._asked, self._cause = texts, cause
            return None
        self._answered = texts[0]
        return [self._passwords.pop(0)]

    def _obstacle(self, texts: tuple[str, ...], any_is_shown: bool) -> _Cause | None:
        if len(texts) > 1:
            return _Cause.SEVERAL
        if any_is_shown:
            return _Cause.VISIBLE
        if self._passwords:
            return None
        if not self._has_password:
            return _Cause.NO_PASSWORD
        return _Cause.AGAIN if texts[0] == self._answered else _Cause.SECOND

    @property
    def lacks_password(self) -> bool:
        """True if a prompt was not answered that a password may answer."""
        return self._cause is _Cause.NO_PASSWORD

    def failure(self, where: str, user: str, after: str) -> Failure | None:
        """The failure for a round that was not answered. `after`: the credentials sent before, "" for none.

        None if all were answered, and for a lack of a password unless a credential was accepted before.
        """
        asks = f"{where} asks {user} {' and '.join(f'`{text}`' for text in self._asked)}"
        after = f" after {after}" if after else ""
        match self._cause:
            case _Cause.SECOND:
                return code_wanted(f"{asks}{after}")
            case _Cause.AGAIN:
                fix = f"correct `password`, or, if a one-time code is asked for, {_EXEMPT}"
                return Failure(Reason.AUTH, f"{asks} again{after}", fix)
            case _Cause.SEVERAL:
                return code_wanted(f"{asks} at once{after}")
            case _Cause.VISIBLE:
                return Failure(Reason.AUTH, f"{asks}{after}, which no program can answer", _EXEMPT)
            case _Cause.NO_PASSWORD:
                fix = f"add `password`, or, if a one-time code is asked for, {_EXEMPT}"
                return Failure(Reason.AUTH, f"{asks}{after}", fix)
            case None:
                return None
