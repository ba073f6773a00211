"""The network drops every packet: the program notices in time, holds new clients, and recovers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.netns import Namespace, SshdThere
from support.services import MIB, EchoServer, Sink, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, running
from support.wait import WITHIN, eventually, free_port, rss_bytes

INTERVAL, COUNT = 1.0, 2  # the defaults take longer than the deadline of `until`
UPLOADS = 8


@dataclass(frozen=True)
class Way:
    """A server, the address at which it reaches this machine, and functions that cut and restore the connection."""

    sshd: Sshd
    back: str
    cut: Callable[[], None]
    mend: Callable[[], None]


@contextlib.asynccontextmanager
async def lost_packets(directory: Path) -> AsyncIterator[Way]:
    if not Namespace.possible():
        pytest.skip("only root can make a network namespace")
    with Namespace() as namespace:
        async with SshdThere(directory, namespace) as sshd:
            yield Way(sshd, namespace.here, namespace.blackhole, namespace.restore)


@contextlib.asynccontextmanager
async def stopped_server(directory: Path) -> AsyncIterator[Way]:
    async with Sshd(directory) as sshd:
        yield Way(sshd, "127.0.0.1", sshd.pause, sshd.resume)


async def flood(port: int) -> None:
    """Send without end as fast as possible. Reconnect after a cut."""
    block = bytes(MIB)
    while True:
        with contextlib.suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(block)
                    await writer.drain()
            finally:
                writer.transport.abort()


@pytest.mark.parametrize(
    ("way", "uploads"),
    [(lost_packets, 0), (lost_packets, UPLOADS), (stopped_server, UPLOADS)],
    ids=["packets lost, idle", "packets lost, loaded", "server stopped, loaded"],
)
async def test_lost_packets_are_noticed_in_time_and_new_clients_are_held(
    way: Callable[[Path], contextlib.AbstractAsyncContextManager[Way]],
    uploads: int,
    tmp_path: Path,
) -> None:
    async with way(tmp_path / "sshd") as there, EchoServer(host=there.back) as echo, Sink(host=there.back) as sink:
        port, drain = free_port(), free_port()
        text = file(
            there.sshd,
            f"      - {{name: echo, local: '{port}:{there.back}:{echo.port}', holdTimeout: 60s}}\n",
            f"      - {{name: sink, local: '{drain}:{there.back}:{sink.port}', holdTimeout: 60s}}\n",
            keepaliveInterval=f"{INTERVAL:g}s",
            keepaliveCountMax=COUNT,
            connectTimeout="2s",
            reconnect="{max: 1s}",
        )
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            flooding = [asyncio.create_task(flood(drain)) for _ in range(uploads)]
            await eventually(lambda: tunnels.meter("server/sink").sent > 32 * MIB or not uploads, within=60)
            before = rss_bytes()
            there.cut()
            try:
                peak, clients = await the_outage(tunnels, port)
            finally:
                there.mend()
            answers = await asyncio.wait_for(asyncio.gather(*clients), 60)
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
        assert answers == [b"ping", b"ping"]
        assert peak - before < 64 * MIB


async def the_outage(tunnels: Running, port: int) -> tuple[int, list[asyncio.Task[bytes]]]:
    """Wait until new clients are held and the link is closed. Return the peak memory and two clients."""
    (link,) = tunnels.links
    early = asyncio.create_task(exchange("127.0.0.1", port))  # the dead link takes this client
    verdict = await tunnels.until("server/echo", Phase.DOWN)
    assert verdict.reason == "keepalive", verdict
    channels = len(link.channels)
    late = asyncio.create_task(exchange("127.0.0.1", port))
    await eventually(lambda: tunnels.meter("server/echo").held > 0, message="a new client is held")
    peak = rss_bytes()
    assert len(link.channels) <= channels, "the dead link takes no new client"
    async with asyncio.timeout(WITHIN):
        while not link.gone:
            peak = max(peak, rss_bytes())
            await asyncio.sleep(0.02)
    verdict = await tunnels.until("server/echo", Phase.DOWN)
    await eventually(lambda: tunnels.meter("server/echo").held == 2, message="both clients wait for another link")
    assert not early.done()
    return max(peak, rss_bytes()), [early, late]


async def test_a_second_connection_serves_clients_while_the_first_is_in_doubt(tmp_path: Path) -> None:
    if not Namespace.possible():
        pytest.skip("only root can make a network namespace")
    with Namespace() as namespace:
        async with SshdThere(tmp_path / "sshd", namespace) as sshd, EchoServer(host=namespace.here) as echo:
            port = free_port()
            text = file(
                sshd,
                f"      - {{name: echo, local: '{port}:{namespace.here}:{echo.port}', holdTimeout: 60s}}\n",
                keepaliveInterval=f"{INTERVAL:g}s",
                keepaliveCountMax=1000,
            )
            async with running(tmp_path, text) as tunnels, connected_once_up(tunnels, port) as (reader, writer):
                [link] = tunnels.links
                ours = link.connection.get_extra_info("sockname")[1]
                namespace.drop_connection(ours)
                try:
                    clients = [asyncio.create_task(exchange("127.0.0.1", port)) for _ in range(3)]
                    assert await asyncio.wait_for(asyncio.gather(*clients), WITHIN) == [b"ping"] * 3
                    assert await exchange("127.0.0.1", port) == b"ping"
                    assert link in tunnels.links
                    assert len(tunnels.links) == 2
                    await tunnels.until("server/echo", Phase.UP)
                finally:
                    namespace.restore_connection(ours)
                writer.write(b"late")
                assert await reader.readexactly(4) == b"late"  # the client of the first connection lives
                await eventually(lambda: tunnels.links == [link], message="one connection is enough")


@contextlib.asynccontextmanager
async def connected_once_up(
    tunnels: Running, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect a client when all tunnels are up."""
    await tunnels.all_up()
    async with connected("127.0.0.1", port) as (reader, writer):
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        yield reader, writer
