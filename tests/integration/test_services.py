"""Real services behind tunnels, with their own clients: psql, redis-cli, curl."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.dropbear import Dropbear
from support.postgres import Postgres, psql
from support.processes import tied_to_parent
from support.redis import Redis, redis_cli
from support.services import exchange
from support.socks_client import curl
from support.sshd import Sshd
from support.tunnels import Server, file, local, remote, running, socks, tunnel
from support.wait import eventually, free_port


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    async with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[int]:
    """Run a web server with one page of 5 MB and return its port."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page").write_bytes(b"0123456789" * 500_000)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path / "www"),
        str(port),
    ]
    with (tmp_path / "web.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*tied_to_parent(command), stdout=log, stderr=log)
    await eventually(lambda: _answers(port))
    yield port
    process.kill()
    await process.wait()


@pytest.fixture(params=["openssh", "dropbear"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Sshd | Dropbear = request.getfixturevalue("sshd" if request.param == "openssh" else "dropbear")
    return found


async def test_psql_through_every_type_of_tunnel(server: Server, postgres: Postgres, tmp_path: Path) -> None:
    here, there = free_port(), free_port()
    lines = local("here", here, postgres.port) + remote("there", there, postgres.port)
    async with running(tmp_path, file(server, lines)) as tunnels:
        await tunnels.all_up()
        for port in (here, there):
            answer = await psql("127.0.0.1", port, "select sum(i), repeat('x', 100000) from generate_series(1, 1000) i")
            assert answer.strip() == "500500|" + "x" * 100_000


async def test_psql_to_a_remote_unix_socket(sshd: Sshd, postgres: Postgres, tmp_path: Path) -> None:
    port = free_port()
    line = tunnel("pg", "local", localPort=port, remoteSocket=postgres.socket_path)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert (await psql("127.0.0.1", port, "select 42")).strip() == "42"


async def test_psql_through_a_local_unix_socket(sshd: Sshd, postgres: Postgres, tmp_path: Path) -> None:
    """`psql` takes a directory and a port, and derives the name of the socket from them."""
    path = tmp_path / ".s.PGSQL.5432"
    line = tunnel("pg", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=postgres.port)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert (await psql(str(tmp_path), 5432, "select 42")).strip() == "42"


async def test_redis_through_every_type_of_tunnel(server: Server, redis: Redis, tmp_path: Path) -> None:
    here, there = free_port(), free_port()
    lines = local("here", here, redis.port) + remote("there", there, redis.port)
    async with running(tmp_path, file(server, lines)) as tunnels:
        await tunnels.all_up()
        assert await redis_cli("-p", str(here), "set", "key", "v" * 10_000) == "OK\n"
        assert await redis_cli("-p", str(there), "get", "key") == "v" * 10_000 + "\n"


async def test_redis_from_unix_socket_to_unix_socket(sshd: Sshd, redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "here.sock"
    line = tunnel("redis", "local", localSocket=path, remoteSocket=redis.socket_path)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await redis_cli("-s", str(path), "ping") == "PONG\n"


async def test_a_subscriber_stays_connected_while_others_come_and_go(sshd: Sshd, redis: Redis, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("redis", port, redis.port))) as tunnels:
        await tunnels.all_up()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"SUBSCRIBE news\r\n")
        assert b"subscribe" in await reader.readuntil(b":1\r\n")
        for number in range(5):
            await redis_cli("-p", str(port), "publish", "news", f"number {number}")
            assert await reader.readuntil(f"number {number}\r\n".encode())
        writer.close()


async def test_curl_through_every_type_of_tunnel(server: Server, web: int, tmp_path: Path) -> None:
    here, there, proxy = free_port(), free_port(), free_port()
    lines = local("here", here, web) + remote("there", there, web) + socks("proxy", proxy)
    async with running(tmp_path, file(server, lines)) as tunnels:
        await tunnels.all_up()
        for way in (
            [f"http://127.0.0.1:{here}/page"],
            [f"http://127.0.0.1:{there}/page"],
            ["--socks5-hostname", f"127.0.0.1:{proxy}", f"http://127.0.0.1:{web}/page"],
        ):
            got = await curl("--fail", *way)
            assert got.body == "0123456789" * 500_000, got.said


async def test_curl_through_a_unix_socket(sshd: Sshd, web: int, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    line = tunnel("web", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=web)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        got = await curl("--fail", "--unix-socket", str(path), "http://localhost/page")
        assert len(got.body) == 5_000_000, got.said


async def _answers(port: int) -> bool:
    try:
        return b"HTTP/1" in await exchange("127.0.0.1", port, b"GET / HTTP/1.0\r\n\r\n")
    except ConnectionError:
        return False
