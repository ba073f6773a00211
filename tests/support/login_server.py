"""An asyncssh server with a scripted login: several methods, rounds of prompts, banners in any encoding."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from support.asyncssh_server import AsyncsshServer

Text = str | bytes  # asyncssh sends bytes as they are


@dataclass(frozen=True, slots=True)
class Round:
    """One SSH_MSG_USERAUTH_INFO_REQUEST (RFC 4256). `right`: the answers that end it well; None takes any."""

    prompts: Sequence[tuple[Text, bool]] = ()
    right: Sequence[str] | None = ()
    instruction: Text = ""
    name: Text = ""
    lang: Text = ""


@dataclass(slots=True)
class Script:
    """A login.

    methods      must succeed, one after the other
    rounds       of each keyboard-interactive method
    must_change  text of a request to change the password, in place of an answer to it
    first, last  banners: before the first method, and before the answer to each credential
    lang         the language tag of the banners
    closes       close the connection in place of the last success
    hangs        the login does not begin
    answers      all passwords and answers that were received
    """

    methods: Sequence[str] = ("keyboard-interactive",)
    rounds: Sequence[Sequence[Round]] = ()
    password: str = "secret"
    must_change: Text = ""
    first: Sequence[Text] = ()
    last: Sequence[Text] = ()
    lang: Text = ""
    closes: bool = False
    hangs: bool = False
    answers: list[str] = field(default_factory=list)


class LoginServer(AsyncsshServer):
    """Serves logins by `script`, which a test may replace."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.script = Script()

    def session(self) -> asyncssh.SSHServer:
        return _Login(self)


class _Login(asyncssh.SSHServer):
    """asyncssh's callbacks for one connection."""

    def __init__(self, server: LoginServer) -> None:
        self._server = server
        self._script = server.script
        self._left = list(self._script.methods)
        self._dialogues = [list(rounds) for rounds in self._script.rounds]
        self._connection: Any = None
        self._succeed: Any = None
        self._gone = asyncio.Event()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._server.opened(conn)
        self._connection = conn
        self._succeed = conn.send_userauth_success
        conn.send_userauth_success = self._step_succeeds  # type: ignore[method-assign]  # asyncssh calls it by name

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._server.closed(self._connection)

    async def _step_succeeds(self) -> None:
        """Ask for the next method, or end the login."""
        self._left.pop(0)
        if self._left:
            self._connection.send_userauth_failure(True)
        elif self._script.closes:
            self._connection.abort()
        else:
            await self._succeed()

    def _say(self, texts: Sequence[Text]) -> None:
        for text in texts:
            self._connection.send_auth_banner(text, self._script.lang)

    async def begin_auth(self, username: str) -> bool:
        self._say(self._script.first)
        if self._script.hangs:
            await self._gone.wait()
        return True

    def _wants(self, method: str) -> bool:
        return bool(self._left) and self._left[0] == method

    def public_key_auth_supported(self) -> bool:
        return self._wants("publickey")

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._say(self._script.last)
        return key.get_fingerprint() == self._server.client.fingerprint

    def password_auth_supported(self) -> bool:
        return self._wants("password")

    def validate_password(self, username: str, password: str) -> bool:
        self._script.answers.append(password)
        self._say(self._script.last)
        if self._script.must_change:
            raise asyncssh.PasswordChangeRequired(self._script.must_change, "")  # type: ignore[arg-type]
        return password == self._script.password

    def kbdint_auth_supported(self) -> bool:
        return self._wants("keyboard-interactive")

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        self._rounds = self._dialogues.pop(0) if self._dialogues else None
        return False if self._rounds is None else self._next_round()

    def _next_round(self) -> Any:
        if not self._rounds:
            self._say(self._script.last)
            return True
        now = self._rounds[0]
        return now.name, now.instruction, now.lang, now.prompts

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Any:
        assert self._rounds is not None
        self._script.answers += responses
        right = self._rounds.pop(0).right
        if right is not None and list(responses) != list(right):
            self._say(self._script.last)
            return False
        return self._next_round()
