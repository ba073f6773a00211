"""The SOCKS handshake on a client's socket: drives core/socks5.py, checks the login, limits the time.

Input: a client's socket from which nothing was read yet. Output: what the client requested, and its user. Bytes
after the handshake are not read: they stay in the kernel until there is a channel, however many clients are held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from reconciler.core.observed import ClientInfo, ClientResult, Failure
from reconciler.core.rules.guess_limiter import GuessLimiter
from reconciler.core.socks5 import Connect, Event, Handshake, Login, Refused, Send
from reconciler.core.spec import FarTcp, SocksUser, TunnelSpec
from reconciler.ssh.clients.connection import ClientConnection, ConnectionRejected
from reconciler.ssh.connect.secret_source import read_text
from reconciler.ssh.errors.failure import DialFailed

HANDSHAKE_TIME = 10.0  # seconds for the whole handshake
TOO_MANY = "too many wrong passwords from its address: retry in a few seconds"


async def run_handshake(connection: ClientConnection, environ: Mapping[str, str], guesses: GuessLimiter) -> ClientInfo:
    """Run the handshake. Raises ConnectionRejected."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIME):
            return await _HandshakeDriver(connection, environ, guesses).run()
    except TimeoutError:
        raise ConnectionRejected(ClientResult.DENIED) from None
    except ConnectionError:
        raise ConnectionRejected(ClientResult.LEFT) from None


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


class _HandshakeDriver:
    """Drives the handshake of one client."""

    def __init__(self, connection: ClientConnection, environ: Mapping[str, str], guesses: GuessLimiter) -> None:
        self._socket = connection.socket
        self._origin = connection.client.origin
        self._tunnel = connection.tunnel
        self._environ = environ
        self._guesses = guesses
        self._user: SocksUser | None = None
        self._handshake = Handshake(needs_auth=bool(self._tunnel.policy.users))

    async def run(self) -> ClientInfo:
        while True:
            data = await self._socket.receive(self._handshake.wanted)
            if (client := await self._act(self._handshake.feed(data))) is not None:
                return client

    async def _act(self, events: list[Event]) -> ClientInfo | None:
        for event in events:
            match event:
                case Send():
                    self._socket.write((event.data,))
                case Login():
                    if (client := await self._act(await self._log_in(event))) is not None:
                        return client
                case Connect():
                    assert not event.rest, "bytes after the handshake were read"
                    requested = FarTcp(self._tunnel.target, event.host, event.port)
                    return ClientInfo(self._origin, requested, self._user)
                case Refused():
                    result = ClientResult.AUTH_FAILED if event.login else ClientResult.DENIED
                    raise ConnectionRejected(result, event.why, event.data)
        return None

    async def _log_in(self, login: Login) -> list[Event]:
        # Read the files first: between `admit` and `settle` the correct logins of others would count as guesses.
        candidates = await self._candidates(login)
        loop, key = asyncio.get_running_loop(), hash((login.username, login.password))
        guess = self._guesses.admit(self._origin, key, loop.time())
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
