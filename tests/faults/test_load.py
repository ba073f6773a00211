"""Clients cannot fill the memory of the process or hold up its other clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.asyncssh_server import AsyncsshServer
from support.clients import moving
from support.services import MIB, EchoServer, TcpService, by_tcp
from support.sshd import Sshd
from support.tunnels import file, local, running, socks
from support.wait import eventually, free_port, rss_bytes

READERS = 200
LORISES = 200
EARLY = 200 * MIB


class Source(TcpService):
    """Sends without end as fast as the client reads. Buffers little, because its memory is that of the test process."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        block = bytes(MIB // 16)
        while True:
            writer.write(block)
            await writer.drain()


class Watch:
    """Measures the memory that a time of load adds."""

    def __init__(self) -> None:
        self._before = self._peak = rss_bytes()

    @property
    def growth(self) -> float:
        """MiB."""
        return (self._peak - self._before) / MIB

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.01)
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


async def test_two_hundred_slow_readers_of_a_fast_source(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    async with Source() as source:
        text = file(sshd, local("fast", port, source.port, maxConnections=0), local("echo", other, echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            async with Watch.on() as watch, contextlib.AsyncExitStack() as stack:
                for _ in range(READERS):
                    # A plain socket: unread data stays in the kernel, not in the memory of this process.
                    client = stack.enter_context(socket.socket())
                    client.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                    await asyncio.get_running_loop().sock_recv(client, 1)
                # The clients stop reading, so that all buffers fill.
                await until_still(lambda: tunnels.meter("server/fast").received)
                async with moving([other]) as (mover,):
                    await mover.moves()
            await tunnels.no_client_is_connected()
    assert watch.growth < 400


async def test_two_hundred_megabytes_sent_before_the_channel_opens_wait_in_the_kernel(
    tmp_path: Path, echo: EchoServer
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
                assert not sending.done(), "the client still has the rest"
                sending.cancel()
                await asyncio.wait({sending})
            taken = tunnels.meter("server/echo").sent
    assert taken == 0
    assert watch.growth < 32


async def test_slow_socks_greetings_time_out_and_affect_no_other_client(
    sshd: Sshd,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reconciler.ssh.clients.socks.HANDSHAKE_TIME", 2.0)
    port, other = free_port(), free_port()
    text = file(sshd, socks("proxy", port, maxConnections=0), local("echo", other, echo.port))
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        async with moving([other]) as (mover,):
            await asyncio.gather(*(slow_greeting(port) for _ in range(LORISES)))
            await mover.moves()
        await tunnels.until("server/proxy", Phase.UP)
        await eventually(lambda: tunnels.results("server/proxy").get("denied", 0) >= LORISES)
        denied = tunnels.results("server/proxy")["denied"]
    assert denied == LORISES


async def slow_greeting(port: int) -> None:
    """Send a SOCKS greeting a byte a second, until the server closes the connection."""
    reader, writer = await by_tcp("127.0.0.1", port)
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


async def until_still(figure: Callable[[], float]) -> None:
    """Wait until a growing figure stays the same for 50 looks, which is half a second or more on a busy machine."""
    last, looks = figure(), 0

    def still() -> bool:
        nonlocal last, looks
        last, looks = figure(), looks + 1 if figure() == last else 0
        return looks == 50

    await eventually(still, within=60, every=0.01, message="the figure does not grow")
