"""Logins and counters of calls for the tests below the channels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncssh
import pytest

from support.asyncssh_server import AsyncsshServer
from support.dropbear import Dropbear
from support.sshd import Sshd

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com")
each_cipher = pytest.mark.parametrize("cipher", CIPHERS)
each_way = pytest.mark.parametrize("plain", [False, True], ids=["below", "plain"])


class Client(asyncssh.SSHClient):
    """Keeps how the connection ended."""

    ended: asyncio.Future[Exception | None]

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


@contextlib.asynccontextmanager
async def login(
    server: Sshd | Dropbear | AsyncsshServer, cipher: str = CIPHERS[0], **options: Any
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with asyncssh.connect(
        server.host,
        server.port,
        username=server.user,
        client_keys=[str(server.client_key)],
        known_hosts=str(server.known_hosts),
        client_factory=Client,
        config=None,
        encryption_algs=[cipher],
        **options,
    ) as connection:
        yield connection


def calls(connection: asyncssh.SSHClientConnection, name: str) -> list[None]:
    """Return a list that grows with each call of this method."""
    counted: list[None] = []
    method: Callable[..., Any] = getattr(connection, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        counted.append(None)
        return method(*args, **kwargs)

    setattr(connection, name, counting)
    return counted


def client_of(connection: asyncssh.SSHClientConnection) -> Client:
    client = connection.get_owner()
    assert isinstance(client, Client)
    return client
