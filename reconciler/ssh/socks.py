"""A SOCKS client's handshake on its socket: drives core/socks5.py, checks the login, bounds the time.

In: a near socket that is not read from yet. Out: what the client asked for, with the socket paused again, so that
the destination's bytes wait in the kernel until there is a channel for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.socks5 import Connect, Event, Handshake, Login, Refused, Send
from reconciler.core.spec import FarTcp, SocksUser, TunnelSpec
from reconciler.core.status import Failure
from reconciler.ssh.attempt import DialFailed
from reconciler.ssh.near import Near
from reconciler.ssh.reading import read_text

HANDSHAKE_TIME = 10.0  # a client that has not said where it wants to go by then is not one


@dataclass(frozen=True, slots=True)
class Asked:
    """Where the client wants to go, what it said already to whoever is there, and who it is."""

    to: FarTcp
    rest: bytes
    user: SocksUser | None


class SocksRefusedError(Exception):
    """The client is told `reply` and sent away. `login`: because it did not log in."""

    def __init__(self, why: str, reply: bytes, *, login: bool) -> None:
        super().__init__(why)
        self.reply = reply
        self.login = login


async def greet(near: Near, tunnel: TunnelSpec, environ: Mapping[str, str]) -> Asked:
    """Run the handshake. Raises SocksRefusedError; ConnectionError if the client leaves; TimeoutError."""
    talk = _Talk(near, tunnel, environ)
    async with asyncio.timeout(HANDSHAKE_TIME):
        return await talk.asked


def unreadable_password(tunnel: TunnelSpec, environ: Mapping[str, str]) -> Failure | None:
    """Why one of its users cannot log in, whatever password is sent: ours cannot be read. None: all can."""
    for user in tunnel.policy.users:
        try:
            _password_of(user, environ)
        except DialFailed as failed:
            return failed.failure
    return None


def _password_of(user: SocksUser, environ: Mapping[str, str]) -> str:
    return read_text(user.password, environ, f"the SOCKS password of {user.name}")


class _Talk:
    def __init__(self, near: Near, tunnel: TunnelSpec, environ: Mapping[str, str]) -> None:
        self._near = near
        self._tunnel = tunnel
        self._environ = environ
        self._user: SocksUser | None = None
        self._handshake = Handshake(needs_auth=bool(tunnel.policy.users))
        self.asked: asyncio.Future[Asked] = asyncio.get_running_loop().create_future()
        near.early = self._heard
        near.on_lost = self._lost
        near.transport.resume_reading()

    def _heard(self, data: bytes) -> None:
        self._act(self._handshake.feed(data))

    def _act(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Send():
                    self._near.transport.write(event.data)
                case Login():
                    self._act(self._handshake.accept_login(self._check(event)))
                case Connect():
                    self._end()
                    self._answer(Asked(FarTcp(self._tunnel.target, event.host, event.port), event.rest, self._user))
                case Refused():
                    self._end()
                    self._answer(SocksRefusedError(event.why, event.data, login=event.login))

    def _check(self, login: Login) -> bool:
        users = self._tunnel.policy.users
        named = [user for user in users if user.name == login.username]
        # For a name that is not there a password is compared too, so that the time it takes does not tell.
        right = [user for user in named or users[:1] if self._password_is(user, login)]
        self._user = right[0] if named and right else None
        return self._user is not None

    def _password_is(self, user: SocksUser, login: Login) -> bool:
        try:
            return login.password.same_text(_password_of(user, self._environ))
        except DialFailed:
            return False  # a password that cannot be read lets nobody in; the tunnel's status says so

    def _lost(self) -> None:
        self._answer(ConnectionResetError("the client left during the handshake"))

    def _end(self) -> None:
        self._near.early = None
        self._near.on_lost = None
        if not self._near.lost:
            self._near.transport.pause_reading()

    def _answer(self, answer: Asked | Exception) -> None:
        if self.asked.done():
            return
        if isinstance(answer, Exception):
            self.asked.set_exception(answer)
        else:
            self.asked.set_result(answer)
