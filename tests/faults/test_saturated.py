"""Uploads fill the line: a small exchange of another client waits for no more bytes than it does with `ssh -L`."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

from support.faults import TcpProxy
from support.processes import tied_to_parent
from support.services import MIB, EchoServer, Sink, by_tcp, connected
from support.sshd import Sshd
from support.tunnels import file, local, running
from support.wait import eventually, free_port

LINE = 5_000_000  # bytes a second
UPLOADS = 8
ECHOES = 4


async def flood(port: int) -> None:
    """Send without end."""
    _, writer = await by_tcp("127.0.0.1", port)
    try:
        while True:
            writer.write(bytes(MIB // 16))
            await writer.drain()
    finally:
        writer.transport.abort()


async def echo_under_load(echo: int, sink: int, service: Sink) -> list[int]:
    """Return how many bytes of the uploads arrive during each small exchange."""
    passed = []
    async with connected("127.0.0.1", echo) as (reader, writer):
        floods = [asyncio.create_task(flood(sink)) for _ in range(UPLOADS)]
        try:
            before = service.swallowed
            await eventually(lambda: service.swallowed > before + LINE, within=60)
            for _ in range(ECHOES):
                before = service.swallowed
                writer.write(b"ping")
                await reader.readexactly(4)
                passed.append(service.swallowed - before)
        finally:
            for one in floods:
                one.cancel()
            await asyncio.wait(floods)
    return passed


@contextlib.asynccontextmanager
async def ssh(sshd: Sshd, port: int, *forwards: tuple[int, int]) -> AsyncIterator[None]:
    """`ssh -L`, once it listens."""
    options = ["-N", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    for here, there in forwards:
        options += ["-L", f"{here}:127.0.0.1:{there}"]
    command = ["ssh", *options, "-i", str(sshd.client_key), "-p", str(port), f"{sshd.user}@127.0.0.1"]
    process = await asyncio.create_subprocess_exec(*tied_to_parent(command), stderr=asyncio.subprocess.DEVNULL)
    try:

        async def listens() -> bool:
            try:
                async with connected("127.0.0.1", forwards[-1][0]):
                    return True
            except ConnectionRefusedError:
                return False

        await eventually(listens)
        yield
    finally:
        process.kill()
        await process.wait()


async def test_an_echo_during_uploads_waits_as_long_as_with_ssh(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(4)]
    async with Sink() as sink, TcpProxy("127.0.0.1", sshd.port, rate=LINE) as line:
        text = file(
            sshd,
            local("echo", ports[0], echo.port),
            local("sink", ports[1], sink.port),
            port=line.port,
            knownHosts=None,
            hostKeys=f'["{sshd.host_public_key}"]',
        )
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            ours = await echo_under_load(ports[0], ports[1], sink)
        await line.drop_connections()
        async with ssh(sshd, line.port, (ports[2], echo.port), (ports[3], sink.port)):
            theirs = await echo_under_load(ports[2], ports[3], sink)
        await line.drop_connections()
    mine, peer = statistics.median(ours), statistics.median(theirs)
    assert mine < 4 * peer
