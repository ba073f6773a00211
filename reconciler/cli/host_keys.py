"""Fetches the host keys of targets and their jump hosts. Needs no login to a server to get its key.

A server behind a jump host is reached through it, which needs a login to the jump host, with the same checks as `run`.
No file is written.
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
from reconciler.ssh.connect.known_hosts import Knowledge
from reconciler.ssh.errors.connect_errors import from_dial
from reconciler.ssh.errors.failure import DialFailed, Stage
from reconciler.ssh.internals.carrier import JumpChannel
from reconciler.system import tcp

_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Server:
    """One SSH server of the files: one host of hop number `number` on the route to `target`."""

    target: TargetSpec
    number: int
    endpoint: Endpoint

    @property
    def hop(self) -> Hop:
        return (*self.target.access.via, self.target.access.hop)[self.number]

    @property
    def key(self) -> tuple[object, ...]:
        """The identity of the server: two targets with equal keys share it."""
        access = self.target.access
        return self.endpoint, self.hop.trust, access.via[: self.number], access.proxy_command, access.outbound

    @property
    def seconds(self) -> float:
        return self.target.settings.connect_timeouts[self.number]


@dataclass(frozen=True, slots=True)
class FetchedKey:
    """The host key of a server, or the failure to fetch it.

    line         `type base64`
    fingerprint  SHA256:...
    state        "new", "known", "revoked" or "changed: ..."
    """

    server: Server
    line: str = ""
    fingerprint: str = ""
    state: str = ""
    failure: Failure | None = None

    @classmethod
    def of(cls, server: Server, fetched: FetchedKey) -> FetchedKey:
        """Return the key of the same server, as a host of another target."""
        return replace(fetched, server=server)

    @property
    def key_type(self) -> str:
        return self.line.partition(" ")[0]


def servers_of(desired: Desired, names: Iterable[str]) -> list[Server]:
    """Return every server of these targets once, each jump host before the servers behind it."""
    servers: dict[tuple[object, ...], Server] = {}
    for name in names:
        target = desired.targets[name]
        for number, hop in enumerate((*target.access.via, target.access.hop)):
            for endpoint in hop.hosts:
                server = Server(target, number, endpoint)
                servers.setdefault(server.key, server)
    return list(servers.values())


def fetch_all(servers: Iterable[Server], environ: Mapping[str, str]) -> list[FetchedKey]:
    """Fetch the keys of all servers and return them in the same order."""
    return asyncio.run(_all(servers, environ))


async def _all(servers: Iterable[Server], environ: Mapping[str, str]) -> list[FetchedKey]:
    limit = asyncio.Semaphore(_CONCURRENCY)

    async def one(server: Server) -> FetchedKey:
        async with limit:
            try:
                return await _fetch(server, environ)
            except DialFailed as failed:
                return FetchedKey(server, failure=failed.failure)

    return list(await asyncio.gather(*map(one, servers)))


async def _fetch(server: Server, environ: Mapping[str, str]) -> FetchedKey:
    endpoint, where = server.endpoint, str(server.endpoint)
    trust = server.hop.trust
    if trust.mode is TrustMode.OFF:
        trust = replace(trust, mode=TrustMode.STRICT)  # look up the known keys all the same
    check = await HostKeyCheck.prepare(trust, endpoint, where)
    offers = options(server.hop, (), check, (0.0, 1), certificates=False)
    stage = Stage.CONNECT
    try:
        async with _jump_connection(server, environ) as jump, asyncio.timeout(server.seconds):
            through: Any = JumpChannel(jump) if jump is not None else None  # asyncssh's type for it is private
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
    except Exception as error:  # asyncssh raises exceptions of any type for data that it cannot decode
        raise DialFailed(from_dial(error, where, stage, server.seconds)) from error
    if key is None:
        raise DialFailed(Failure(Reason.PROTOCOL, f"{where} sent no host key", "check that it is an SSH server"))
    line = " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])
    return FetchedKey(server, line, key.get_fingerprint(), _state(check.known, key))


@contextlib.asynccontextmanager
async def _jump_connection(
    server: Server, environ: Mapping[str, str]
) -> AsyncIterator[asyncssh.SSHClientConnection | None]:
    """Connect to the last jump host before the server; yield None if there is none."""
    access, settings = server.target.access, server.target.settings
    if not server.number:
        yield None
        return
    jump = access.via[server.number - 1]
    jump_access = Access(jump, access.via[: server.number - 1], access.proxy_command, access.outbound)
    try:
        dialled = await dial(
            jump_access, settings, len(jump.hosts), name=server.target.name, client=asyncssh.SSHClient, environ=environ
        )
    except DialFailed as failed:
        what = f"cannot log in to the jump host of {server.endpoint}: {failed.failure.what}"
        raise DialFailed(replace(failed.failure, what=what)) from failed
    try:
        yield dialled.connection
    finally:
        dialled.connection.close()
        await dialled.connection.wait_closed()


@contextlib.asynccontextmanager
async def _socket(server: Server, *, direct: bool) -> AsyncIterator[socket.socket | None]:
    """Open a socket to the server by TCP or by its proxy command; yield None if a jump host is used."""
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
        sock = await tcp.connect(server.endpoint, server.target.access.outbound)
        try:
            yield sock
        finally:
            sock.close()


def _state(known: Knowledge, key: asyncssh.SSHKey) -> str:
    """Compare the key with the known keys: "known", "revoked", "changed: ..." or "new"."""
    if any(one.is_key(key) for one in known.revoked):
        return "revoked"
    if any(one.is_key(key) for one in (*known.keys, *known.elsewhere)):
        return "known"
    if known.keys:
        others = ", ".join(f"{one.key.get_algorithm()} {one.key.get_fingerprint()} ({one.place})" for one in known.keys)
        return f"changed: the known key is {others}"
    return "new"
