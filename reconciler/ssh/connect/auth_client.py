"""The asyncssh client object of one connection, from the first byte to the end of the login.

It answers asyncssh's questions about the host key, keys and passwords, and records how far the login got. If the login
fails, `greeting` and `record` explain it from what the server sent. After the login it is still the client object that
asyncssh calls, and forwards debug messages and the end of the connection to the link's client object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import cast

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Algorithms
from reconciler.ssh.connect import algorithms as offers
from reconciler.ssh.connect.credentials import Credentials
from reconciler.ssh.connect.debug_log import unwatch, watch
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.connect.keyboard import PROMPT_MAX, PROMPTS_SHOWN
from reconciler.ssh.connect.keys.attempts import KeyAttempts
from reconciler.ssh.connect.keys.user_certificates import forwarding_refusal
from reconciler.ssh.connect.login_record import LoginRecord
from reconciler.ssh.connect.negotiated import host_key, terrapin
from reconciler.ssh.connect.server_words import ServerWords, shortened
from reconciler.ssh.errors.failure import Stage
from reconciler.ssh.errors.forwarding import ServerFacts
from reconciler.ssh.errors.patterns import printable
from reconciler.ssh.internals import kex_messages
from reconciler.ssh.internals.greeting import Greeting
from reconciler.ssh.internals.keys.signatures import announced
from reconciler.ssh.internals.packet_guard import Guard
from reconciler.ssh.internals.parse_budget import ParseBudget

_TLS = (b"\x15\x03", b"\x16\x03")  # the first bytes of TLS alerts and handshakes
# OpenSSH sends `Exceeded MaxStartups` or `Not allowed at this time`; other servers vary. A text that begins
# with a number or HTTP/ (`421 Too many connections`) belongs to another protocol.
_REFUSAL = re.compile(
    rb"(?!HTTP/)(?=[a-z])[^\0]*?(maxstartups|too many|exceeded|not allowed|denied|refused|block|bann?ed|busy|later)",
    re.IGNORECASE,
)


class AuthClient(asyncssh.SSHClient):
    """The client object that asyncssh calls during one handshake and login."""

    def __init__(
        self,
        check: HostKeyCheck,
        credentials: Credentials,
        below: AuthClient | None = None,
        debug: str = "",
        *,
        algorithms: Algorithms,
        heard: Callable[[str], None],
    ) -> None:
        """`below`: the client of the jump host that carries this connection.
        `debug`: the name under which asyncssh's log of this connection is written, "" for no log.
        `algorithms`: those that the file names for this hop.
        `heard`: called with each text that the server sends during the login.
        """
        self.check = check
        # Set if the negotiated algorithms need strict key exchange and the server does not support it.
        self.needs_strict_kex: Failure | None = None
        self._algorithms = algorithms
        self._debug = debug
        self.below = below
        self._greeting: Greeting | None = None
        self._keys = KeyAttempts(credentials.keys, offers.signature_offer(algorithms))
        self.record = LoginRecord(credentials, self._keys)
        self._passwords = list(credentials.passwords)
        self.words = ServerWords(credentials.passwords, heard)
        self._connection: asyncssh.SSHClientConnection | None = None
        self.guard: Guard | None = None
        self._logging_in = False
        self._link: asyncssh.SSHClient | None = None
        self.lost = False
        self.error: Exception | None = None
        self.server = ServerFacts()

    @property
    def connection(self) -> asyncssh.SSHClientConnection | None:
        return self._connection

    @property
    def stage(self) -> Stage:
        if self._connection is None:
            return Stage.CONNECT
        if self._logging_in:
            return Stage.LOGIN
        return Stage.KEX if kex_messages.server_version(self._connection) else Stage.BANNER

    def hand_over(self, link: asyncssh.SSHClient) -> None:
        """Pass the events of the connection to `link` from now on."""
        self._link = link
        if self._connection is not None:
            link.connection_made(self._connection)

    def auth_completed(self) -> None:
        if self._connection is not None:
            self.server.version = str(self._connection.get_extra_info("server_version", ""))
            self.server.user = str(self._connection.get_extra_info("username", ""))
        self.server.uncertified = forwarding_refusal(self.record.latest)

    def forget(self) -> None:
        """Drop keys and passwords: the next dial reads them again."""
        self.record.forget()
        self.words.forget()
        self._passwords.clear()

    # asyncssh.SSHClient: the connection

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn
        below = self.below.guard.inbound if self.below is not None and self.below.guard is not None else None
        self.guard = Guard(conn, ParseBudget(conn, below))
        self.guard.partial_success = self.record.accepted_in_part
        self._greeting = Greeting(conn)
        if self._debug:
            watch(conn, self._debug)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            unwatch(self._connection)
        if self.guard is not None:
            self.guard.close()
        self.lost, self.error = True, exc
        if self._link is not None:
            self._link.connection_lost(exc)

    def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
        self.server.note(msg)
        if self._link is not None:
            self._link.debug_msg_received(msg, lang, always_display)

    # asyncssh.SSHClient: the host key

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self.check.accepts(key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self.check.accepts_authority(key)

    # asyncssh.SSHClient: the login

    def begin_auth(self, username: str) -> None:
        """Check the negotiated algorithms: the key exchange is over, and no credential was sent yet."""
        if self._connection is not None and (found := terrapin(self._connection)) is not None:
            field, name = found
            if name not in getattr(self._algorithms, field):
                self._refuse_weak(field, name)
        self._logging_in = True

    def _refuse_weak(self, field: str, name: str) -> None:
        what = f"{self.check.where} uses {name} without strict key exchange, so packets can be removed (Terrapin)"
        fix = f"update that server (CVE-2023-48795), or accept it with algorithms: {{{field}: [{name}]}}"
        self.needs_strict_kex = Failure(Reason.PROTOCOL, what, fix)
        raise asyncssh.KeyExchangeFailed("strict key exchange is needed")

    async def public_key_auth_requested(self) -> list[asyncssh.SSHKeyPair] | None:
        """The next key, one at a time, so that the last one offered is the one that the server accepted."""
        if not await self.check.pinned():
            return None
        offer = self._keys.next(announced(self._connection)) if self._connection is not None else None
        if offer is None:
            self.record.nothing_left("publickey")
            return None
        self.record.key_offered(offer)
        self.words.credential_sent()
        return [offer.pair]

    async def password_auth_requested(self) -> str | None:
        if not await self.check.pinned():
            return None
        if not self._passwords:
            self.record.nothing_left("password")
            return None
        self.record.password_given()
        self.words.credential_sent()
        return self._passwords.pop(0)

    def password_change_requested(self, prompt: str, lang: str) -> tuple[str, str]:
        """Decline to change the password: the new one would have to be written to where the old one comes from."""
        self.record.change_wanted(self._shown(prompt))
        return cast("tuple[str, str]", NotImplemented)  # what asyncssh takes for a refusal

    async def kbdint_auth_requested(self) -> str | None:
        """Begin, also without a password: the server may ask nothing."""
        if not await self.check.pinned() or not self.record.keyboard.may_begin():
            return None
        return ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        self.words.add(name, instructions, is_question=bool(prompts))
        shown = [(self._shown(text), is_shown) for text, is_shown in prompts[:PROMPTS_SHOWN]]
        answers = self.record.keyboard.answer(shown)
        if answers:
            self.record.password_given()
            self.words.credential_sent()
        return answers

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.words.add(msg)

    def _shown(self, prompt: str) -> str:
        return shortened(self.words.clean(prompt), PROMPT_MAX) or "(an empty prompt)"

    # why the login failed

    def greeting(self, where: str) -> Failure | None:
        """The failure for text in place of an SSH version: another protocol, or a refusal. None if there was none."""
        lines = (self._greeting.received if self._greeting is not None else b"").split(b"\n")
        line = next((line for line in lines if line.strip()), b"")
        is_partial_banner = lines[-1] and b"SSH-".startswith(lines[-1])
        if not line or is_partial_banner or any(line.startswith(b"SSH-") for line in lines):
            return None
        text = f"`{printable(line.strip().decode('utf-8', 'backslashreplace'))}`"
        if _REFUSAL.match(line):
            fix = "wait, or see the server's log: it accepts no more logins now, or bans this address"
            return Failure(Reason.SERVER_BUSY, f"{where} answered {text}", fix)
        answer = "in TLS" if line.startswith(_TLS) else text
        return Failure(Reason.PROTOCOL, f"{where} answered {answer}, which is not SSH", "correct the port")

    def refusal(self, where: str, user: str) -> Failure:
        """The failure of a login that the server refused."""
        return self.record.refusal(where, user, self._with_sha1)

    def _with_sha1(self) -> str:
        """The YAML that allows RSA keys with SHA-1, and the host key that the server has."""
        presented = host_key(self._connection) if self._connection is not None else ""
        names = self._algorithms.host_key or tuple(filter(None, (presented,)))
        return offers.yaml(self._algorithms, hostKey=(*(name for name in names if name != "ssh-rsa"), "ssh-rsa"))
