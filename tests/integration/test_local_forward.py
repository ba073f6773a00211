"""Local forwards on a real sshd: complete data, half-close on both sides, many clients, no leaks."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from support.faults import reset
from support.postgres import Postgres, psql
from support.services import (
    EchoServer,
    SinkSource,
    download,
    exchange,
    half_close_client_first,
    half_close_server_first,
    upload,
)
from support.sshd import Sshd
from support.tunnels import Running, local, running, target
from support.wait import eventually, free_port

pytestmark = pytest.mark.usefixtures("is_plain")

MIB = 1 << 20


async def test_256_mib_arrive_whole_in_each_direction(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service, running(tmp_path, file(sshd, local("data", port, service.port))) as tunnels:
        await tunnels.all_up()
        for transfer in (upload, download):
            expected, seen = await transfer("127.0.0.1", port, 256 * MIB)
            assert seen == expected


async def test_either_side_may_send_eof_first_and_still_receive(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with SinkSource() as service, running(tmp_path, file(sshd, local("data", port, service.port))) as tunnels:
        await tunnels.all_up()
        expected, seen = await half_close_client_first("127.0.0.1", port, 8 * MIB)
        assert seen == expected
        sent = await half_close_server_first("127.0.0.1", port, 8 * MIB)
        await eventually(lambda: sent in service.received)


async def test_bytes_counted_are_bytes_sent(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        for size in (1, 70_000, 3 * MIB):
            await exchange("127.0.0.1", port, b"x" * size)
        meter = tunnels.meter("server/echo")
        assert (meter.sent, meter.received) == (1 + 70_000 + 3 * MIB,) * 2


async def test_a_thousand_clients_at_once(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, maxConnections=0))) as tunnels:
        await tunnels.all_up()
        arrived = asyncio.Barrier(1000)

        async def client(number: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{number:05}".encode())
            answer = await reader.readexactly(5)
            await arrived.wait()  # no client leaves before all are served
            writer.close()
            await writer.wait_closed()
            return answer

        answers = await asyncio.gather(*(client(number) for number in range(1000)))
        assert answers == [f"{number:05}".encode() for number in range(1000)]


async def test_clients_that_reset_while_their_channel_opens_leave_nothing_behind(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, maxConnections=0))) as tunnels:
        await tunnels.all_up()
        await exchange("127.0.0.1", port, b"warm")
        async with tunnels.nothing_left_behind():
            for _ in range(10):
                await asyncio.gather(*(connect_and_reset(port) for _ in range(100)))
        await eventually(lambda: echo.connections == 0, message="each close reaches the destination")


async def test_psql_works_through_a_local_forward(sshd: Sshd, postgres: Postgres, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("pg", port, postgres.port))) as tunnels:
        await tunnels.all_up()
        answer = await psql("127.0.0.1", port, "select sum(i) from generate_series(1, 100000) i")
        assert answer.strip() == "5000050000"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", '"::1"'])
async def test_the_short_form_and_every_loopback_name_listen(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, host: str
) -> None:
    if host == '"::1"' and not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    port = free_port()
    listen = f"[{host.strip(chr(34))}]" if ":" in host else host
    line = f'      - {{name: echo, local: "{listen}:{port}:127.0.0.1:{echo.port}"}}\n'
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange(host.strip('"'), port, b"hello") == b"hello"


def file(sshd: Sshd, *tunnels: str) -> str:
    return "targets:\n" + target(sshd) + "".join(tunnels)


async def connect_and_reset(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    reset(writer.transport)


async def no_client_is_connected(tunnels: Running) -> None:
    meters = [one.clients for one in tunnels.engine.actuator.records.tunnels()]
    await eventually(lambda: all(m.active == 0 and m.held == 0 for m in meters), message="no client is left")


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True
