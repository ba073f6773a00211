"""The SOCKS handshake on a client's socket: drives core/socks5.py, checks the login, limits the time.

Input: a client's socket from which nothing was read yet. Output: what the client requested, and its user. Bytes
after the handshake go back to the socket: at most `READ` of them, however many clients are held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping

from reconciler.core.observed import ClientInfo, ClientResult, Failure
from reconciler.core.rules.guess_limiter import GuessLimiter
from reconciler.core.socks5 import Connect, Event, Handshake, Login, Refused, Send
from reconciler.core.spec import FarTcp, SocksUser, TunnelSpec
from reconciler.ssh.clients.connection import ClientConnection, ConnectionRejected
from reconciler.ssh.connect.secret_source import read_text
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.relay.client_socket import EOF
from reconciler.system.event_loop.deadlines import Deadlines

HANDSHAKE_TIME = 10.0  # seconds for the whole handshake
READ = 512  # bytes read at once: most messages of a handshake are shorter
TOO_MANY = "too many wrong passwords from its address: retry in a few seconds"


async def unreadable_password(tunnel: TunnelSpec, environ: Mapping[str, str]) -> Failure | None:
    """Return the failure of the first user whose configured password cannot be read, None if all can be read."""
    for user in tunnel.policy.users:
        try:
            await _password_of(user, environ)
        except DialFailed as failed:
            return failed.failure
    return None


async def _password_of(user: SocksUser, environ: Mapping[str, str]) -> str:
    return await read_text(user.password, environ, f"the SOCKS password of {user.name}")


class SocksHandshake:
    """The handshake of one client. It receives the events of the client's socket, and needs a task only for a login.

    It calls `ended` once: with what the client requested, the reason why the client gets no channel, an exception that
    is a defect of this program, or None after `cut`.
    """

    __slots__ = (
        "_began_at",
        "_connection",
        "_deadlines",
        "_ended",
        "_environ",
        "_guesses",
        "_handshake",
        "_run",
        "_socket",
        "_timer",
        "_tunnel",
        "_user",
    )

    def __init__(
        self,
        connection: ClientConnection,
        environ: Mapping[str, str],
        guesses: GuessLimiter,
        deadlines: Deadlines[SocksHandshake],
        run: Callable[[Coroutine[None, None, None]], None],
        ended: Callable[[ClientInfo | Exception | None], None],
    ) -> None:
        """`deadlines`: calls `time_over` after HANDSHAKE_TIME. `run`: runs a coroutine as the connection's task."""
        self._connection = connection
        self._socket = connection.socket
        self._tunnel = connection.tunnel
        self._environ = environ
        self._guesses = guesses
        self._run = run
        self._ended: Callable[[ClientInfo | Exception | None], None] | None = ended
        self._user: SocksUser | None = None
        self._handshake = Handshake(needs_auth=bool(self._tunnel.policy.users))
        self._deadlines = deadlines
        self._began_at = asyncio.get_running_loop().time()
        self._timer: asyncio.TimerHandle | None = None  # after a login
        deadlines.add(self, self._began_at)
        self._socket.relay = self
        self._socket.watch()

    def cut(self) -> None:
        """End the handshake. The receiver of `ended` resets the client."""
        self._end(None)

    def time_over(self) -> None:
        """End the handshake: it took too long."""
        self._end(ConnectionRejected(ClientResult.DENIED))

    # --- events of the socket ----------------------------------------------------------------------------------

    def client_readable(self) -> None:
        try:
            buffer = bytearray(READ)
            count = self._socket.read_into([memoryview(buffer)])
            if count == EOF:
                self._end(ConnectionRejected(ClientResult.LEFT))
            elif count:
                self._act(self._handshake.feed(buffer[:count]))
        except Exception as error:  # noqa: BLE001 - a bug met by one client must not leave the client hanging
            self._end(error)

    def client_took(self, count: int) -> None:
        """Do nothing: the replies are short."""

    def client_lost(self) -> None:
        self._end(ConnectionRejected(ClientResult.LEFT))

    # -----------------------------------------------------------------------------------------------------------

    def _act(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Send():
                    self._socket.write((event.data,))
                case Login():
                    self._socket.unwatch()
                    self._deadlines.remove(self)
                    self._run(self._log_in(event))
                case Connect():
                    self._socket.put_back(event.rest)
                    requested = FarTcp(self._tunnel.target, event.host, event.port)
                    self._end(ClientInfo(self._connection.client.origin, requested, self._user))
                case Refused():
                    result = ClientResult.AUTH_FAILED if event.login else ClientResult.DENIED
                    self._end(ConnectionRejected(result, event.why, event.data))

    def _end(self, outcome: ClientInfo | Exception | None) -> None:
        if self._ended is None:
            return
        ended, self._ended = self._ended, None
        self._deadlines.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._socket.unwatch()
        self._socket.relay = None
        ended(outcome)

    async def _log_in(self, login: Login) -> None:
        loop, deadline = asyncio.get_running_loop(), self._began_at + HANDSHAKE_TIME
        try:
            async with asyncio.timeout_at(deadline):
                events = await self._checked(login)
            self._act(events)
        except TimeoutError:
            self._end(ConnectionRejected(ClientResult.DENIED))
        except Exception as error:  # noqa: BLE001 - as in `client_readable`
            self._end(error)
        else:
            if self._ended is not None:
                self._timer = loop.call_at(deadline, self.time_over)
                self._socket.watch()

    async def _checked(self, login: Login) -> list[Event]:
        # Read the files first: between `admit` and `settle` the correct logins of others would count as guesses.
        candidates = await self._candidates(login)
        key = hash((login.username, login.password))
        loop = asyncio.get_running_loop()
        guess = self._guesses.admit(self._connection.client.origin, key, loop.time())
        if guess is None:
            return self._handshake.accept_login(ok=False, why=TOO_MANY)
        if guess.wait:
            await asyncio.sleep(guess.wait)
        matching = [user for user, password in candidates if login.password.same_text(password)]
        self._user = next((user for user in matching if user.name == login.username), None)
        self._guesses.settle(guess, right=self._user is not None, now=loop.time())
        return self._handshake.accept_login(self._user is not None)

    async def _candidates(self, login: Login) -> list[tuple[SocksUser, str]]:
        """Return the users of that name with their passwords.

        If there is none, another user is read and compared: the time must not reveal which names exist. A user whose
        password cannot be read is left out and cannot log in; the tunnel's status reports it.
        """
        users = self._tunnel.policy.users
        found: list[tuple[SocksUser, str]] = []
        for user in [user for user in users if user.name == login.username] or users[:1]:
            with contextlib.suppress(DialFailed):
                found.append((user, await _password_of(user, self._environ)))
        return found
