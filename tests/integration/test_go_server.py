"""Forwards over a server on golang.org/x/crypto/ssh, which ends a connection at a packet for a closed channel."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from integration.packet_paths import calls
from reconciler.core.observed import Phase
from support.go_server import GoMissingError, GoServer
from support.services import (
    MIB,
    EchoServer,
    RefusingPort,
    SinkSource,
    by_tcp,
    check_transfers,
    connected,
    exchange,
    refuses,
)
from support.socks_client import by_socks
from support.tunnels import file, local, remote, running, socks
from support.wait import eventually, free_port

CIPHERS = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
SIZE = 8 * MIB
CLIENTS = 300


@pytest.fixture
async def go_server(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GoServer]:
    """Run the server, or skip the test where it cannot be built."""
    build = tmp_path_factory.getbasetemp() / "go-build"
    build.mkdir(exist_ok=True)
    try:
        server = GoServer(tmp_path / "go", build)
    except GoMissingError as missing:
        pytest.skip(str(missing))
    async with server:
        yield server


@pytest.mark.parametrize("cipher", CIPHERS)
async def test_the_bytes_are_the_same_with_each_cipher(
    go_server: GoServer, tmp_path: Path, is_plain: bool, cipher: str
) -> None:
    near, far, proxy = free_port(), free_port(), free_port()
    async with SinkSource() as service:
        lines = local("near", near, service.port), remote("far", far, service.port), socks("proxy", proxy)
        async with running(tmp_path, file(go_server, *lines, algorithms=f"{{cipher: [{cipher}]}}")) as tunnels:
            await tunnels.all_up()
            [link] = tunnels.links
            assert link.connection.get_extra_info("send_cipher") == cipher
            assert link.channels._path.is_plain is (is_plain or cipher == "aes256-ctr")
            await asyncio.gather(
                check_transfers(service, near, SIZE),
                check_transfers(service, far, SIZE),
                check_transfers(service, service.port, SIZE, by_socks(proxy)),
            )
            assert tunnels.links == [link]
            await tunnels.no_client_is_connected()


@pytest.mark.parametrize("by", ["the server", "us"])
async def test_new_keys_every_megabyte_under_load_keep_the_bytes(
    go_server: GoServer, tmp_path: Path, is_plain: bool, by: str
) -> None:
    near, far = free_port(), free_port()
    if by == "the server":
        go_server.rekey_bytes = MIB
        await go_server.restart()
    async with SinkSource() as service:
        lines = local("near", near, service.port), remote("far", far, service.port)
        async with running(tmp_path, file(go_server, *lines)) as tunnels:
            await tunnels.all_up()
            [link] = tunnels.links
            assert link.channels._path.is_plain is is_plain
            connection: Any = link.connection
            if by == "us":
                connection._rekey_bytes = MIB
            exchanges = calls(connection, "_send_deferred_packets")
            await asyncio.gather(check_transfers(service, near, SIZE), check_transfers(service, far, SIZE))
            assert len(exchanges) > SIZE // MIB
            assert tunnels.links == [link]


@pytest.mark.usefixtures("is_plain")
async def test_clients_that_leave_at_any_time_do_not_end_the_link(
    go_server: GoServer, echo: EchoServer, tmp_path: Path
) -> None:
    near, far, proxy = free_port(), free_port(), free_port()
    ways = [(near, by_tcp), (far, by_tcp), (echo.port, by_socks(proxy))]
    lines = local("near", near, echo.port), remote("far", far, echo.port), socks("proxy", proxy)
    dice = random.Random(0)

    async def client() -> None:
        port, opening = dice.choice(ways)
        block = dice.randbytes(dice.randint(1, 200_000))
        leaves = dice.choice([0, dice.randint(0, len(block)), len(block) * 2])  # reads that much
        async with connected("127.0.0.1", port, opening) as (reader, writer):
            writer.write(block)
            got = await reader.readexactly(min(leaves, len(block)))
            assert got == block[: len(got)]
            if leaves > len(block):
                writer.write_eof()
                assert await reader.read() == b""
            else:
                writer.transport.abort()

    async with running(tmp_path, file(go_server, *lines)) as tunnels:
        await tunnels.all_up()
        [link] = tunnels.links
        async with tunnels.nothing_left_behind():
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
        assert tunnels.links == [link]
        assert await exchange("127.0.0.1", near) == b"ping"


async def test_a_refused_destination_ends_its_client_alone(
    go_server: GoServer, tmp_path: Path, echo: EchoServer
) -> None:
    near, shut = free_port(), free_port()
    with RefusingPort() as refusing:
        lines = local("near", near, echo.port), local("shut", shut, refusing.port)
        async with running(tmp_path, file(go_server, *lines)) as tunnels:
            await tunnels.all_up()
            async with connected("127.0.0.1", near) as (reader, writer):
                async with connected("127.0.0.1", shut) as (refused, _):
                    with pytest.raises(ConnectionResetError):
                        await refused.read()
                writer.write(b"1")
                assert await reader.readexactly(1) == b"1"
            assert tunnels.results("server/shut") == {"dial_failed": 1}


async def test_a_remote_forward_moves_and_comes_back_after_a_loss(
    go_server: GoServer, echo: EchoServer, tmp_path: Path
) -> None:
    first, second = free_port(), free_port()
    async with running(tmp_path, file(go_server, remote("back", first, echo.port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", first) == b"ping"
        tunnels.edit(file(go_server, remote("back", second, echo.port)))
        await eventually(lambda: refuses(first))
        await tunnels.until("server/back", Phase.UP)
        links = tunnels.links
        await go_server.restart()
        await tunnels.replaced(links)
        await tunnels.until("server/back", Phase.UP)
        assert await exchange("127.0.0.1", second) == b"ping"


async def test_the_server_chooses_the_port_of_a_remote_forward(
    go_server: GoServer, echo: EchoServer, tmp_path: Path
) -> None:
    async with running(tmp_path, file(go_server, remote("back", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", tunnels.bound_port("server/back")) == b"ping"
