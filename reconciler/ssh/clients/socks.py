"""A SOCKS client's handshake on its socket: drives core/socks5.py, checks the login, bounds the time.

In: a near socket that is not read from yet. Out: what the client asked for. No byte beyond the handshake is read: what
a client sends after it stays in the kernel until there is a channel, however many clients are held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.observed import Failure
from reconciler.core.rules.guess_limiter import GuessLimiter
from reconciler.core.rules.origin import Origin
from reconciler.core.socks5 import Connect, Event, Handshake, Login, Refused, Send
from reconciler.core.spec import FarTcp, SocksUser, TunnelSpec
from reconciler.ssh.connect.secret_source import read_text
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.relay.client_transport import ClientTransport

HANDSHAKE_TIME = 10.0  # a client that has not said where it wants to go by then is not one
TOO_MANY = "too many wrong passwords came from its address just now: it may try again in a few seconds"


@dataclass(frozen=True, slots=True)
class Asked:
    """Where the client wants to go, and who it is."""

    to: FarTcp
    user: SocksUser | None


class SocksRefusedError(Exception):
    """The client is told `reply` and sent away. `login`: because it did not log in."""

    def __init__(self, why: str, reply: bytes, *, login: bool) -> None:
        super().__init__(why)
        self.reply = reply
        self.login = login


async def greet(
    near: ClientTransport, origin: Origin, tunnel: TunnelSpec, environ: Mapping[str, str], guesses: GuessLimiter
) -> Asked:
    """Run the handshake. Raises SocksRefusedError; ConnectionError if the client leaves; TimeoutError."""
    async with asyncio.timeout(HANDSHAKE_TIME):
        return await _Talk(near, origin, tunnel, environ, guesses).run()


async def unreadable_password(tunnel: TunnelSpec, environ: Mapping[str, str]) -> Failure | None:
    """Why one of its users cannot log in, whatever password is sent: ours cannot be read. None: all can."""
    for user in tunnel.policy.users:
        try:
            await _password_of(user, environ)
        except DialFailed as failed:
            return failed.failure
    return None


async def _password_of(user: SocksUser, environ: Mapping[str, str]) -> str:
    return await read_text(user.password, environ, f"the SOCKS password of {user.name}")


class _Talk:
    """One client's handshake."""

    def __init__(
        self,
        near: ClientTransport,
        origin: Origin,
        tunnel: TunnelSpec,
        environ: Mapping[str, str],
        guesses: GuessLimiter,
    ) -> None:
        self._near = near
        self._origin = origin
        self._tunnel = tunnel
        self._environ = environ
        self._guesses = guesses
        self._user: SocksUser | None = None
        self._handshake = Handshake(needs_auth=bool(tunnel.policy.users))

    async def run(self) -> Asked:
        while True:
            data = await self._near.receive(self._handshake.wanted)
            if (asked := await self._act(self._handshake.feed(data))) is not None:
                return asked

    async def _act(self, events: list[Event]) -> Asked | None:
        for event in events:
            match event:
                case Send():
                    self._near.transport.write(event.data)
                case Login():
                    if (asked := await self._act(await self._log_in(event))) is not None:
                        return asked
                case Connect():
                    assert not event.rest, "no more is read than the handshake needs"
                    return Asked(FarTcp(self._tunnel.target, event.host, event.port), self._user)
                case Refused():
                    raise SocksRefusedError(event.why, event.data, login=event.login)
        return None

    async def _log_in(self, login: Login) -> list[Event]:
        # Read first: between `admit` and `settle` right logins would count as guesses while a file is read.
        candidates = await self._candidates(login)
        loop, key = asyncio.get_running_loop(), hash((login.username, login.password))
        guess = self._guesses.admit(self._tunnel.id, self._origin, key, loop.time())
        if guess is None:
            return self._handshake.accept_login(ok=False, why=TOO_MANY)
        if guess.wait:
            await asyncio.sleep(guess.wait)
        right = [user for user, password in candidates if login.password.same_text(password)]
        self._user = next((user for user in right if user.name == login.username), None)
        self._guesses.settle(guess, right=self._user is not None, now=loop.time())
        return self._handshake.accept_login(self._user is not None)

    async def _candidates(self, login: Login) -> list[tuple[SocksUser, str]]:
        """The users of that name with their passwords; without one another user, so that the time does not tell.

        A password that cannot be read lets nobody in. The tunnel's status says so.
        """
        users = self._tunnel.policy.users
        found: list[tuple[SocksUser, str]] = []
        for user in [user for user in users if user.name == login.username] or users[:1]:
            with contextlib.suppress(DialFailed):
                found.append((user, await _password_of(user, self._environ)))
        return found
