"""Builders for tests of dialling: hops to the test servers, and a dial that closes what it opened."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import asyncssh
import pytest

from reconciler.core.observed import Failure
from reconciler.core.outbound import ANY_ADDRESS, Outbound
from reconciler.core.secret import FromFile
from reconciler.core.spec import (
    Access,
    Algorithms,
    Endpoint,
    Hop,
    KeyLogin,
    Reconnect,
    TargetSettings,
    Trust,
    TrustMode,
)
from reconciler.ssh.connect.dial import DialFailed, Dialled, dial
from support.keys import KeyPair, Keys
from support.sshd import Sshd

OURS = Algorithms(cipher=(), kex=(), mac=(), host_key=())


class Server(Protocol):
    """What the test servers have in common."""

    host: str
    port: int
    user: str
    known_hosts: Path

    @property
    def client_key(self) -> Path: ...


def hop(server: Server, **fields: Any) -> Hop:
    """Logs in to the server with its key, strictly; a field given replaces that."""
    usual: dict[str, Any] = {
        "hosts": (Endpoint(server.host, server.port),),
        "user": server.user,
        "logins": (key_login(server.client_key),),
        "trust": strict(server.known_hosts),
        "algorithms": OURS,
        "compress": False,
        "strict_key_permissions": False,
    }
    return Hop(**(usual | fields))


def key_login(path: Path) -> KeyLogin:
    return KeyLogin(FromFile(str(path)), None, None)


def certified_login(key: KeyPair, certificate: Path) -> KeyLogin:
    return KeyLogin(FromFile(str(key.private)), None, FromFile(str(certificate)))


@contextlib.asynccontextmanager
async def sshd_with_authority(directory: Path, authority: KeyPair, **options: str) -> AsyncIterator[Sshd]:
    """Run a server that takes only certificates of this authority."""
    options = {"TrustedUserCAKeys": str(authority.public), **options}
    async with Sshd(directory / "sshd-ca", options=options, client=Keys(directory).make("stranger")) as sshd:
        yield sshd


def strict(*known_hosts: Path) -> Trust:
    return trust(TrustMode.STRICT, *known_hosts)


def trust(mode: TrustMode, *known_hosts: Path, host_keys: tuple[str, ...] = (), alias: str = "") -> Trust:
    return Trust(mode, host_keys, tuple(str(path) for path in known_hosts), alias)


def access(target: Hop, *via: Hop, proxy_command: tuple[str, ...] = (), outbound: Outbound = ANY_ADDRESS) -> Access:
    return Access(target, via, proxy_command, outbound)


def settings(timeout: float = 10.0, keepalive: float = 0.0) -> TargetSettings:
    return TargetSettings((timeout,) * 4, 5.0, keepalive, 2, 60.0, Reconnect(0.25, 30.0, 2.0), "info")


@contextlib.asynccontextmanager
async def dialled(
    to: Access,
    *,
    limit: int = 99,
    connect_timeout: float = 10.0,
    environ: Mapping[str, str] | None = None,
    client: Callable[[], asyncssh.SSHClient] = asyncssh.SSHClient,
) -> AsyncIterator[Dialled]:
    result = await dial(to, settings(connect_timeout), limit, name="test", client=client, environ=environ or {})
    try:
        yield result
    finally:
        result.connection.close()
        await result.connection.wait_closed()


async def failure_of(
    to: Access, *, limit: int = 99, connect_timeout: float = 10.0, environ: Mapping[str, str] | None = None
) -> Failure:
    """The failure of this dial; the test fails if it succeeds."""
    with pytest.raises(DialFailed) as failed:
        async with dialled(to, limit=limit, connect_timeout=connect_timeout, environ=environ):
            pass
    return failed.value.failure


async def works(connection: asyncssh.SSHClientConnection) -> bool:
    """Return True if the connection still carries data."""
    try:
        return (await connection.run("echo yes", check=True)).stdout == "yes\n"
    except (OSError, asyncssh.Error):
        return False
