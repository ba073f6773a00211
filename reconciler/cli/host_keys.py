"""Fetching the host keys of targets and their jump hosts, without logging in to the one whose key is fetched.

A server behind a jump host is reached through it, so the jump host has to let us in first, with all the checks that
`run` makes. Nothing is written anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Access, Desired, Endpoint, Hop, TargetSpec, TrustMode
from reconciler.ssh.connect import proxy_command
from reconciler.ssh.connect.asyncssh_options import options
from reconciler.ssh.connect.dial import dial
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.connect.jump_channel import JumpChannel
from reconciler.ssh.connect.known_hosts import Knowledge
from reconciler.ssh.errors.connect_errors import from_dial
from reconciler.ssh.errors.failure import DialFailed, Stage
from reconciler.system import tcp

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Server:
    """One SSH server of the files: hop number `number` on the way to `target`, at one of its hosts."""

    target: TargetSpec
    number: int
    endpoint: Endpoint

    @property
    def hop(self) -> Hop:
        return (*self.target.access.via, self.target.access.hop)[self.number]

    @property
    def way(self) -> tuple[object, ...]:
        """What makes it the same server for two targets."""
        return self.endpoint, self.hop.trust, self.target.access.via[: self.number], self.target.access.proxy_command

    @property
    def seconds(self) -> float:
        return self.target.settings.connect_timeouts[self.number]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A server's key as `type base64`, its fingerprint, and how it stands to what is known; or why there is none."""

    server: Server
    line: str = ""
    fingerprint: str = ""
    standing: str = ""
    failure: Failure | None = None

    @property
    def key_type(self) -> str:
        return self.line.partition(" ")[0]


def servers_of(desired: Desired, names: Iterable[str]) -> list[Server]:
    """Every server of these targets once, jump hosts before what is behind them."""
    found: dict[tuple[object, ...], Server] = {}
    for name in names:
        target = desired.targets[name]
        for number, hop in enumerate((*target.access.via, target.access.hop)):
            for endpoint in hop.hosts:
                server = Server(target, number, endpoint)
                found.setdefault(server.way, server)
    return list(found.values())


def fetch_all(servers: Iterable[Server], environ: Mapping[str, str]) -> list[Fetched]:
    """In their order."""
    return asyncio.run(_all(servers, environ))


async def _all(servers: Iterable[Server], environ: Mapping[str, str]) -> list[Fetched]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(server: Server) -> Fetched:
        async with gate:
            try:
                return await _fetch(server, environ)
            except DialFailed as failed:
                return Fetched(server, failure=failed.failure)

    return list(await asyncio.gather(*map(one, servers)))


async def _fetch(server: Server, environ: Mapping[str, str]) -> Fetched:
    endpoint, where = server.endpoint, str(server.endpoint)
    trust = server.hop.trust
    if trust.mode is TrustMode.OFF:
        trust = replace(trust, mode=TrustMode.STRICT)  # what is known is looked up all the same
    check = await HostKeyCheck.prepare(trust, endpoint, where)
    offers = options(server.hop, (), check, (0.0, 1), certificates=False)
    stage = Stage.CONNECT
    try:
        async with _below(server, environ) as below, asyncio.timeout(server.seconds):
            through: Any = JumpChannel(below) if below is not None else None  # asyncssh's type for it is private
            async with _socket(server, direct=through is None) as sock:
                stage = Stage.BANNER
                key = await asyncssh.get_server_host_key(
                    endpoint.host,
                    endpoint.port,
                    sock=sock,
                    tunnel=through,
                    config=None,
                    kex_algs=offers["kex_algs"],
                    server_host_key_algs=offers["server_host_key_algs"],
                )
    except Exception as error:  # what cannot be decoded becomes any kind of exception in asyncssh
        raise DialFailed(from_dial(error, where, stage, server.seconds)) from error
    if key is None:
        raise DialFailed(Failure(Reason.PROTOCOL, f"{where} shows no host key", "check that it is an SSH server"))
    line = " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])
    return Fetched(server, line, key.get_fingerprint(), _standing(check.known, key))


@contextlib.asynccontextmanager
async def _below(server: Server, environ: Mapping[str, str]) -> AsyncIterator[asyncssh.SSHClientConnection | None]:
    """The connection to the jump host before it; None where there is none."""
    access, settings = server.target.access, server.target.settings
    if not server.number:
        yield None
        return
    jump = access.via[server.number - 1]
    way = Access(jump, access.via[: server.number - 1], access.proxy_command)
    try:
        dialled = await dial(
            way, settings, len(jump.hosts), name=server.target.name, client=asyncssh.SSHClient, environ=environ
        )
    except DialFailed as failed:
        what = f"{server.endpoint} is behind a jump host that does not let us in: {failed.failure.what}"
        raise DialFailed(replace(failed.failure, what=what)) from failed
    try:
        yield dialled.connection
    finally:
        dialled.connection.close()
        await dialled.connection.wait_closed()


@contextlib.asynccontextmanager
async def _socket(server: Server, *, direct: bool) -> AsyncIterator[socket.socket | None]:
    """A socket of our own to the server, by TCP or by its proxy command; None where a jump host carries it."""
    command = server.target.access.proxy_command
    if not direct:
        yield None
    elif command:
        program = await proxy_command.start(command, server.endpoint, server.hop.user, str(server.endpoint))
        try:
            yield program.sock
        finally:
            program.sock.close()
            program.close()
            await program.wait_closed()
    else:
        sock = await tcp.connect(server.endpoint)
        try:
            yield sock
        finally:
            sock.close()


def _standing(known: Knowledge, key: asyncssh.SSHKey) -> str:
    """What is known of this key here: "known", "revoked", "changed: …" or "new"."""
    if any(one.is_key(key) for one in known.revoked):
        return "revoked"
    if any(one.is_key(key) for one in (*known.keys, *known.elsewhere)):
        return "known"
    if known.keys:
        others = ", ".join(f"{one.key.get_algorithm()} {one.key.get_fingerprint()} ({one.place})" for one in known.keys)
        return f"changed: known is {others}"
    return "new"
