"""Records what was sent during one login and how the server answered, and explains from that why the login failed."""

from __future__ import annotations

from collections.abc import Callable

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.ssh.connect.credentials import Credentials
from reconciler.ssh.connect.keyboard import KeyboardDialogue, code_wanted
from reconciler.ssh.connect.keys.attempts import KeyAttempts, labels
from reconciler.ssh.connect.keys.offer import Offer
from reconciler.ssh.errors.patterns import SAYS_TOO_MANY_TRIES

_PW_LABEL = "a password"  # the label of a password in messages


class LoginRecord:
    """The record of one login. It keeps the password until `forget`, for the prompts."""

    def __init__(self, credentials: Credentials, keys: KeyAttempts) -> None:
        self.keyboard = KeyboardDialogue(credentials.passwords)
        self._keys = keys
        self.latest: Offer | None = None  # the last key offered, None if a password was sent after it
        self._password_sent = False
        self._has = {"key": bool(credentials.keys), "password": bool(credentials.passwords)}
        self._unmet: dict[str, None] = {}  # methods the server accepts next for which no credential is left
        self._pending = ""  # the label of the credential that the server has not answered yet
        self._accepted: list[str] = []  # labels of credentials that were accepted as one of several
        self._change: str | None = None  # the text of a request to change the password

    def forget(self) -> None:
        """Drop keys and passwords."""
        self.latest = None
        self._keys.forget()
        self.keyboard.forget()

    def key_offered(self, offer: Offer) -> None:
        self.latest = offer
        self._sent(offer.label)

    def password_given(self) -> None:
        self._password_sent, self.latest = True, None
        self._sent(_PW_LABEL)

    def _sent(self, credential: str) -> None:
        self._pending = credential
        self._unmet.clear()

    def nothing_left(self, method: str) -> None:
        """The server accepts this method, and no credential is left for it."""
        self._unmet[method] = None

    def accepted_in_part(self) -> None:
        """The server accepts the credential and wants another one (RFC 4252 section 5.1)."""
        if self.latest is not None:
            self._keys.accepted()
        if self._pending:
            self._accepted.append(self._pending)
        self._pending = ""
        self.keyboard.credential_accepted()

    def change_wanted(self, text: str) -> None:
        """The server wants a new password, in place of an answer to the old one (RFC 4252 section 8)."""
        self._change = text

    def is_last_try(self, exc: Exception) -> bool:
        """Return True if the server ends the connection for too many tries, and a number of keys is not the cause."""
        if not isinstance(exc, asyncssh.DisconnectError) or len(self._keys.offered) > 1:
            return False
        return SAYS_TOO_MANY_TRIES.search(exc.reason) is not None

    def refusal(self, where: str, user: str, sha1: Callable[[], str]) -> Failure:
        """The failure of a login, explained by the methods the server accepted and asked for.

        `sha1` returns the YAML that allows SHA-1.
        """
        tried = self._tried()
        if self._change is not None:
            what = f"{where} wants {user} to change the password (`{self._change}`)"
            return Failure(Reason.AUTH, what, "change it with ssh, then correct `password`")
        if self.keyboard.lacks_password and not self._accepted:
            self._unmet["keyboard-interactive"] = None
        elif (failure := self.keyboard.failure(where, user, tried)) is not None:
            return failure
        if (failure := self._keys.failure(where, user, sha1)) is not None:
            return failure
        if not tried:
            return self._nothing_fits(where, user)
        accepted = " and ".join(dict.fromkeys(self._accepted))
        if self._unmet and accepted:
            return self._not_enough(where, user, accepted)
        return self._refused(where, user, tried, accepted)

    def _refused(self, where: str, user: str, tried: str, accepted: str) -> Failure:
        what = f"{where} refused the login of {user} with {tried}"
        if accepted and self._password_sent:
            what = f"{where} accepts {accepted} from {user}, and refuses {_PW_LABEL}"
        if self.keyboard.answered and self._pending:
            if _PW_LABEL in self._accepted:
                return code_wanted(f"{where} asks {user} `{self.keyboard.answered}` after {tried}")
            fix = "correct `user` or `password`; a one-time code cannot be given"
            return Failure(Reason.AUTH, f"{what}, which answered `{self.keyboard.answered}`", fix)
        if not self._keys.offered or accepted:
            return Failure(Reason.AUTH, what, "correct `user` or `password`")
        return Failure(Reason.AUTH, what)

    def _not_enough(self, where: str, user: str, accepted: str) -> Failure:
        second = "another key" if "publickey" in self._unmet else ""
        others = [method for method in self._unmet if method != "publickey"]
        what = (
            f"{where} accepts {accepted} from {user}, and requires {' or '.join(filter(None, [second, *others]))} too"
        )
        add = ["add that key to `privateKey`"] * bool(second) + ["add `password`"] * bool(others)
        return Failure(Reason.AUTH, what, f"{' or '.join(add)}, or allow this user to log in without it")

    def _nothing_fits(self, where: str, user: str) -> Failure:
        has = " and ".join(f"a {name}" for name, there in self._has.items() if there)
        ours = f"has only {has}" if has else "has no login"
        if not self._unmet:
            what = f"{where} accepts neither key nor password from {user}; the file {ours} for it"
            return Failure(Reason.AUTH, what, "allow one of them on the server (PubkeyAuthentication)")
        add = ["`privateKey` or `agent`" if method == "publickey" else "`password`" for method in self._unmet]
        what = f"{where} accepts {' or '.join(self._unmet)} from {user}; the file {ours} for it"
        return Failure(Reason.AUTH, what, f"add {' or '.join(dict.fromkeys(add))}")

    def _tried(self) -> str:
        keys = [labels(self._keys.offered)] if self._keys.offered else []
        return ", ".join([*keys, _PW_LABEL] if self._password_sent else keys)
