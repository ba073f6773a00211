"""The faults and services of the test support behave as documented."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from support.faults import Blackhole, CloseOnAccept, SilentListener, SlowBanner, TcpProxy
from support.services import (
    MIB,
    EchoServer,
    GreetingServer,
    RefusingPort,
    SilentService,
    SinkSource,
    connected,
    download,
    exchange,
    half_close_client_first,
    half_close_server_first,
    upload,
)
from support.wait import eventually, fd_count, rss_bytes

SHORT = 0.2  # seconds in which something must not happen


@pytest.fixture
async def proxy(echo: EchoServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(echo.host, echo.port) as server:
        yield server


async def test_transfers_arrive_whole_in_both_directions_and_orders_of_closing() -> None:
    async with SinkSource() as service, TcpProxy(service.host, service.port) as via:
        size = 3 * MIB + 17
        for transfer in (upload, download, half_close_client_first):
            expected, seen = await transfer(via.host, via.port, size)
            assert expected == seen
        sent = await half_close_server_first(via.host, via.port, size)
        await eventually(lambda: sent in service.received)


async def test_the_echo_server_counts_its_live_connections(echo: EchoServer) -> None:
    async with connected(echo.host, echo.port), connected(echo.host, echo.port):
        await eventually(lambda: echo.connections == 2)
    await eventually(lambda: echo.connections == 0)
    assert echo.total == 2


async def test_stopping_a_service_drops_its_clients_and_starting_it_keeps_the_port(echo: EchoServer) -> None:
    async with connected(echo.host, echo.port) as (reader, _):
        await eventually(lambda: echo.connections)
        await echo.stop()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    await echo.start()
    assert await exchange(echo.host, echo.port) == b"ping"


async def test_a_greeting_identifies_the_server() -> None:
    async with GreetingServer("blue") as blue:
        assert await exchange(blue.host, blue.port, b"") == b"blue"


async def test_a_silent_service_stops_a_sender() -> None:
    async with SilentService() as service, connected(service.host, service.port) as (_, writer):
        writer.write(bytes(32 * MIB))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), SHORT)
        writer.transport.abort()


async def test_a_refusing_port_refuses() -> None:
    with RefusingPort() as port, pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(port.host, port.port)


async def test_connecting_to_a_blackhole_hangs() -> None:
    with Blackhole() as hole, pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection(hole.host, hole.port), SHORT)


async def test_a_blackhole_and_a_working_server_share_a_port(echo: EchoServer) -> None:
    with Blackhole("127.0.0.2", echo.port):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.2", echo.port), SHORT)
        assert await exchange(echo.host, echo.port) == b"ping"


async def test_a_silent_listener_sends_nothing() -> None:
    async with SilentListener() as server, connected(server.host, server.port) as (reader, writer):
        writer.write(b"SSH-2.0-me\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), SHORT)


async def test_a_slow_banner_comes_byte_by_byte() -> None:
    async with SlowBanner(interval=0.02) as server, connected(server.host, server.port) as (reader, _):
        assert await reader.readexactly(4) == b"SSH-"
        assert await reader.readline() == b"2.0-OpenSSH_9.2 slow\r\n"


@pytest.mark.parametrize("resets", [False, True])
async def test_a_connection_is_closed_at_once(*, resets: bool) -> None:
    async with CloseOnAccept(resets=resets) as server, connected(server.host, server.port) as (reader, _):
        if resets:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert await reader.read() == b""


async def test_a_frozen_proxy_holds_bytes_and_ends_back_and_delivers_them_later(proxy: TcpProxy) -> None:
    async with connected(proxy.host, proxy.port) as (reader, writer):
        await eventually(lambda: proxy.connections)
        proxy.freeze()
        writer.write(b"held")
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), SHORT)
        await proxy.restore()
        assert await reader.read() == b"held"


async def test_a_frozen_proxy_hides_the_death_of_the_server(proxy: TcpProxy, echo: EchoServer) -> None:
    async with connected(proxy.host, proxy.port) as (reader, _):
        await eventually(lambda: echo.connections)
        proxy.freeze()
        await echo.stop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), SHORT)


async def test_cutting_resets_both_sides(proxy: TcpProxy, echo: EchoServer) -> None:
    async with connected(proxy.host, proxy.port) as (reader, _):
        await eventually(lambda: echo.connections)
        await proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await eventually(lambda: echo.connections == 0)
    assert await exchange(proxy.host, proxy.port) == b"ping"


async def test_a_refusing_proxy_keeps_live_connections_and_listens_again_when_restored(proxy: TcpProxy) -> None:
    async with connected(proxy.host, proxy.port) as (reader, writer):
        await eventually(lambda: proxy.connections)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await exchange(proxy.host, proxy.port)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
    await proxy.restore()
    assert await exchange(proxy.host, proxy.port) == b"ping"


async def test_a_proxy_resets_a_client_when_there_is_no_server() -> None:
    with RefusingPort() as nothing:
        async with (
            TcpProxy(nothing.host, nothing.port) as proxy,
            connected(proxy.host, proxy.port) as (reader, _),
        ):
            with pytest.raises(ConnectionResetError):
                await reader.read()


async def test_a_proxy_adds_its_latency(echo: EchoServer) -> None:
    async with TcpProxy(echo.host, echo.port, latency=0.05) as proxy:
        started = asyncio.get_running_loop().time()
        assert await exchange(proxy.host, proxy.port) == b"ping"
        assert asyncio.get_running_loop().time() - started >= 0.1


async def test_a_proxy_limits_its_rate() -> None:
    async with SinkSource() as service, TcpProxy(service.host, service.port, rate=8 * MIB) as proxy:
        started = asyncio.get_running_loop().time()
        await upload(proxy.host, proxy.port, 2 * MIB)
        assert asyncio.get_running_loop().time() - started >= 0.2


async def test_memory_and_descriptors_of_this_process_can_be_counted() -> None:
    before = fd_count()
    with RefusingPort():
        assert fd_count() == before + 1
    assert rss_bytes() > MIB
