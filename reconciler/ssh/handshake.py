"""asyncssh's side of a login: answers its questions about the host key, keys and passwords, and knows how far it came.

One for each connection. After the login it stays as the connection's owner and passes on what concerns the link to
the client object of whoever asked for the connection.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncssh

from reconciler.ssh.attempt import Stage
from reconciler.ssh.debug_log import unwatch, watch
from reconciler.ssh.logins import Credentials, Offer
from reconciler.ssh.negotiated import name_lists, strings
from reconciler.ssh.trust import HostKeyCheck

_ONE_TIME = ("code", "token", "otp", "verification", "pin")


class Handshake(asyncssh.SSHClient):
    """See the module."""

    def __init__(
        self, check: HostKeyCheck, credentials: Credentials, below: Handshake | None = None, debug: str = ""
    ) -> None:
        """`debug` is the name under which asyncssh's log of this connection is shown, "" not at all."""
        self.check = check
        self._debug = debug
        self.below = below  # of the jump host that carries this connection
        self.offered: list[Offer] = []
        self.latest: Offer | None = None  # the key that was offered last, if a password was not sent after it
        self.password_sent = False
        self._keys = list(credentials.keys)
        self._passwords = list(credentials.passwords)
        self._passwords_by_keyboard = list(credentials.passwords)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._logging_in = False
        self._link: asyncssh.SSHClient | None = None
        self.lost = False
        self.error: Exception | None = None

    @property
    def connection(self) -> asyncssh.SSHClientConnection | None:
        return self._connection

    @property
    def stage(self) -> Stage:
        if self._connection is None:
            return Stage.CONNECT
        if self._logging_in:
            return Stage.LOGIN
        return Stage.KEX if self._connection.get_extra_info("server_version") else Stage.BANNER

    def host_key_offers(self) -> tuple[list[str], list[str]]:
        """The host key types that we and the server offered; none before the key exchange began."""
        if self._connection is None:
            return [], []
        hashed = strings(self._connection.get_hash_prefix())
        return name_lists(hashed[2])[1], name_lists(hashed[3])[1]

    def hand_over(self, link: asyncssh.SSHClient) -> None:
        """From now on the connection's end is `link`'s business."""
        self._link = link
        if self._connection is not None:
            link.connection_made(self._connection)

    def forget(self) -> None:
        """Let go of keys and passwords: the next dial reads them anew."""
        self.latest = None
        for kept in (self.offered, self._keys, self._passwords, self._passwords_by_keyboard):
            kept.clear()

    # asyncssh.SSHClient: the connection

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn
        if self._debug:
            watch(conn, self._debug)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            unwatch(self._connection)
        self.lost, self.error = True, exc
        if self._link is not None:
            self._link.connection_lost(exc)

    def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
        if self._link is not None:
            self._link.debug_msg_received(msg, lang, always_display)

    # asyncssh.SSHClient: the host key

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self.check.accepts(key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self.check.accepts_authority(key)

    # asyncssh.SSHClient: the login

    def begin_auth(self, username: str) -> None:
        self._logging_in = True

    def public_key_auth_requested(self) -> list[asyncssh.SSHKeyPair] | None:
        """The next key, one at a time, so that the last one offered is the one that was taken."""
        if not self._keys:
            return None
        self.latest = self._keys.pop(0)
        self.offered.append(self.latest)
        return [self.latest.pair]

    def password_auth_requested(self) -> str | None:
        return self._send(self._passwords.pop(0)) if self._passwords else None

    def kbdint_auth_requested(self) -> str | None:
        return "" if self._passwords_by_keyboard else None

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        """Answer one prompt for a password. Prompts for one-time codes cannot be answered by a program."""
        if not prompts:
            return []  # a message to read
        if len(prompts) > 1 or not self._passwords_by_keyboard:
            return None
        prompt, echo = prompts[0]
        if echo or any(word in prompt.lower() for word in _ONE_TIME):
            return None
        return [self._send(self._passwords_by_keyboard.pop(0))]

    def _send(self, password: str) -> str:
        self.password_sent, self.latest = True, None
        return password
