"""Clients that would fill our memory or our time: they are bounded, and the loop goes on for everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.asyncssh_server import AsyncsshServer
from support.clients import moving
from support.services import MIB, EchoServer, TcpService, by_tcp
from support.sshd import Sshd
from support.tunnels import file, local, running, socks
from support.wait import Awake, eventually, free_port, rss_bytes

READERS = 200
LORISES = 200
EARLY = 200 * MIB


class Source(TcpService):
    """Sends without end, as fast as anybody reads, and keeps little in its own memory, which is the test's."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        block = bytes(MIB // 16)
        while True:
            writer.write(block)
            await writer.drain()


class Watch:
    """What a time of load costs: how much memory is added, and how late the event loop's timers are at worst: by the
    work of its thread, for of the rest the machine is the cause.
    """

    def __init__(self) -> None:
        self.lag = 0.0
        self._before = self._peak = rss_bytes()

    @property
    def growth(self) -> float:
        """MiB."""
        return (self._peak - self._before) / MIB

    async def _tick(self) -> None:
        while True:
            due, worked = time.monotonic() + 0.01, time.thread_time()
            await asyncio.sleep(0.01)
            self.lag = max(self.lag, min(time.monotonic() - due, time.thread_time() - worked))
            self._peak = max(self._peak, rss_bytes())

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls) -> AsyncIterator[Watch]:
        watch = cls()
        task = asyncio.create_task(watch._tick())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_two_hundred_readers_that_crawl_behind_a_fast_source(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, other = free_port(), free_port()
    async with Source() as source:
        text = file(sshd, local("fast", port, source.port, maxConnections=0), local("echo", other, echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            async with Watch.on() as watch, contextlib.AsyncExitStack() as stack:
                for _ in range(READERS):
                    # A plain socket: what it does not read stays in the kernel, not in the memory of this process.
                    client = stack.enter_context(socket.socket())
                    client.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                    await asyncio.get_running_loop().sock_recv(client, 1)
                # They read no more: what is under way fills every buffer that there is.
                await until_still(lambda: tunnels.meter("server/fast").received)
                received = tunnels.meter("server/fast").received / MIB
                async with moving([other]) as (mover,):
                    await mover.moves()
            await tunnels.nobody_is_connected()
    with capsys.disabled():
        print(
            f"\n  {READERS} readers that crawl: {received:.0f} MiB taken from the server, RSS +{watch.growth:.0f} MiB, "
            f"loop at most {watch.lag * 1000:.0f} ms late"
        )
    assert watch.growth < 400
    assert watch.lag < 2


async def test_two_hundred_megabytes_sent_before_the_channel_opens_wait_in_the_kernel(
    tmp_path: Path, echo: EchoServer, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    async with AsyncsshServer(tmp_path / "server") as server:
        server.never_answer_channel(f"127.0.0.1:{echo.port}")
        async with running(tmp_path, file(server, local("echo", port, echo.port, drainTimeout="0s"))) as tunnels:
            await tunnels.all_up()
            async with Watch.on() as watch:
                sent = 0

                async def send() -> None:
                    nonlocal sent
                    _, writer = await by_tcp("127.0.0.1", port)
                    try:
                        while sent < EARLY:
                            writer.write(bytes(MIB))
                            await writer.drain()
                            sent += MIB
                    finally:
                        writer.transport.abort()

                sending = asyncio.create_task(send())
                await eventually(lambda: server.requests)
                await until_still(lambda: sent)
                assert not sending.done(), "the rest is still with the client"
                sending.cancel()
                await asyncio.wait({sending})
            taken = tunnels.meter("server/echo").sent
    with capsys.disabled():
        print(
            f"\n  {EARLY // MIB} MiB before the channel opens: {sent // MIB} MiB went into the kernel, {taken} bytes "
            f"were read, RSS +{watch.growth:.1f} MiB"
        )
    assert taken == 0
    assert watch.growth < 32


async def test_clients_that_say_their_socks_greeting_a_byte_a_second_are_sent_away_and_cost_nobody(
    sshd: Sshd,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("reconciler.ssh.clients.socks.HANDSHAKE_TIME", 2.0)
    port, other = free_port(), free_port()
    text = file(sshd, socks("proxy", port, maxConnections=0), local("echo", other, echo.port))
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        async with moving([other]) as (mover,), Watch.on() as watch:
            began = time.monotonic()
            stayed = await asyncio.gather(*(slow_greeting(port) for _ in range(LORISES)))
            await mover.moves()
            took, rounds = time.monotonic() - began, mover.rounds
        await tunnels.until("server/proxy", Phase.UP)
        await eventually(lambda: tunnels.results("server/proxy").get("denied", 0) >= LORISES)
        denied = tunnels.results("server/proxy")["denied"]
    with capsys.disabled():
        print(
            f"\n  {LORISES} slow greetings (limit 2 s): sent away after {min(stayed):.1f} to {max(stayed):.1f} s, all "
            f"within {took:.1f} s, RSS +{watch.growth:.1f} MiB, loop at most {watch.lag * 1000:.0f} ms late; "
            f"a neighbour made {rounds} exchanges"
        )
    assert denied == LORISES


async def slow_greeting(port: int) -> float:
    """Seconds until it is sent away."""
    reader, writer = await by_tcp("127.0.0.1", port)
    began = time.monotonic()
    try:
        for byte in b"\x05\xff" + bytes(255):
            writer.write(bytes((byte,)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    assert await reader.read(1) == b""
                    break
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - began


async def until_still(figure: Callable[[], float], seconds: float = 0.5) -> None:
    """Wait until a figure that grows has stopped growing."""
    async with Awake.counted() as awake:
        last, since = figure(), awake.seconds

        def still() -> bool:
            nonlocal last, since
            if figure() != last:
                last, since = figure(), awake.seconds
            return awake.seconds - since >= seconds

        await eventually(still, within=60, message="it grows no more")
