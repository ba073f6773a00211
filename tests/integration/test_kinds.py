"""All kinds of tunnels on OpenSSH and Dropbear: complete data, half-close, exact counters, no leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from support.dropbear import Dropbear, DropbearUnavailableError
from support.services import (
    MIB,
    EchoServer,
    Opening,
    SinkSource,
    by_tcp,
    by_unix,
    connected,
    download,
    exchange,
    half_close_client_first,
    half_close_server_first,
    upload,
)
from support.socks_client import by_socks
from support.sshd import Sshd
from support.tunnels import Server, file, local, remote, running, socks, tunnel
from support.wait import eventually, free_port

pytestmark = pytest.mark.usefixtures("is_plain")

SERVICE = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Way:
    """A tunnel's line in the file, and where and how its clients connect."""

    line: str
    port: int
    opening: Opening = by_tcp


@dataclass(frozen=True, slots=True)
class Place:
    """Destinations of a kind of tunnel: the service's port, its unix socket, and a directory for sockets."""

    port: int
    socket: Path
    directory: Path


def _local(to: Place) -> Way:
    port = free_port()
    return Way(local("it", port, to.port), port)


def _local_to_unix(to: Place) -> Way:
    port = free_port()
    return Way(tunnel("it", "local", localPort=port, remoteSocket=to.socket), port)


def _unix_to_tcp(to: Place) -> Way:
    path = to.directory / "local.sock"
    line = tunnel("it", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=to.port)
    return Way(line, 0, by_unix(path))


def _remote(to: Place) -> Way:
    port = free_port()
    return Way(remote("it", port, to.port), port)


def _remote_to_unix(to: Place) -> Way:
    port = free_port()
    return Way(tunnel("it", "remote", remotePort=port, localSocket=to.socket), port)


def _remote_from_unix(to: Place) -> Way:
    path = to.directory / "remote.sock"
    line = tunnel("it", "remote", remoteSocket=path, localHost="127.0.0.1", localPort=to.port)
    return Way(line, 0, by_unix(path))


def _socks(to: Place) -> Way:
    port = free_port()
    return Way(socks("it", port), to.port, by_socks(port))


KINDS: dict[str, Callable[[Place], Way]] = {
    "local": _local,
    "local to a unix socket": _local_to_unix,
    "local from a unix socket": _unix_to_tcp,
    "remote": _remote,
    "remote to a unix socket": _remote_to_unix,
    "remote from a unix socket": _remote_from_unix,
    "socks": _socks,
}
# Dropbear does not forward to or from unix sockets on the server.
CASES = [("openssh", kind) for kind in KINDS] + [
    ("dropbear", kind) for kind in KINDS if kind not in {"local to a unix socket", "remote from a unix socket"}
]


@pytest.fixture(params=CASES, ids=[f"{server}, {kind}" for server, kind in CASES])
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    server, kind = request.param
    return server, kind


@pytest.fixture
async def server(case: tuple[str, str], tmp_path: Path) -> AsyncIterator[Sshd | Dropbear]:
    made: Sshd | Dropbear = (
        # Without it, sshd does not listen again on a socket file that a killed session left.
        Sshd(tmp_path / "server", options={"StreamLocalBindUnlink": "yes"})
        if case[0] == "openssh"
        else Dropbear(tmp_path / "server")
    )
    try:
        await made.start()
    except DropbearUnavailableError as missing:
        pytest.skip(str(missing))
    yield made
    await made.stop()


@pytest.fixture
async def transfers(tmp_path: Path) -> AsyncIterator[SinkSource]:
    """Services with checksums on a port and on a unix socket, counted together."""
    async with SinkSource() as by_port, SinkSource(path=tmp_path / "service.sock") as by_path:
        by_path.received = by_port.received
        yield by_port


@pytest.fixture
def way(case: tuple[str, str], transfers: SinkSource, tmp_path: Path) -> Way:
    return KINDS[case[1]](Place(transfers.port, tmp_path / "service.sock", tmp_path))


async def test_64_mib_arrive_whole_in_each_direction(server: Server, way: Way, tmp_path: Path) -> None:
    async with running(tmp_path, file(server, way.line)) as tunnels:
        await tunnels.all_up()
        for transfer in (upload, download):
            expected, seen = await transfer(SERVICE, way.port, 64 * MIB, way.opening)
            assert seen == expected


async def test_either_side_may_send_eof_first_and_still_receive(
    server: Server, way: Way, transfers: SinkSource, tmp_path: Path
) -> None:
    async with running(tmp_path, file(server, way.line)) as tunnels:
        await tunnels.all_up()
        expected, seen = await half_close_client_first(SERVICE, way.port, 8 * MIB, way.opening)
        assert seen == expected
        sent = await half_close_server_first(SERVICE, way.port, 8 * MIB, way.opening)
        await eventually(lambda: sent in transfers.received)


async def test_bytes_are_counted_exactly_in_each_direction(
    server: Server, way: Way, tmp_path: Path, case: tuple[str, str]
) -> None:
    size = 3 * MIB + 1
    asked, answered = len(f"download {size}\n"), size
    async with running(tmp_path, file(server, way.line)) as tunnels:
        await tunnels.all_up()
        await download(SERVICE, way.port, size, way.opening)
        await tunnels.no_client_is_connected()
        meter = tunnels.meter("server/it")
        # `sent` counts bytes towards the SSH server: the bytes of a remote forward's clients are `received`.
        expected = (answered, asked) if "remote" in case[1] else (asked, answered)
        assert (meter.sent, meter.received) == expected
        assert meter.results == {"ok": 1}


async def test_clients_leave_nothing_behind(server: Server, way: Way, tmp_path: Path) -> None:
    async with running(tmp_path, file(server, way.line)) as tunnels:
        await tunnels.all_up()
        await download(SERVICE, way.port, 1, way.opening)
        async with tunnels.nothing_left_behind():
            for _ in range(20):
                await download(SERVICE, way.port, 70_000, way.opening)
                _, writer = await way.opening(SERVICE, way.port)
                writer.transport.abort()


async def test_three_hundred_clients_are_connected_at_once(server: Server, way: Way, tmp_path: Path) -> None:
    async with running(tmp_path, file(server, way.line)) as tunnels:
        await tunnels.all_up()
        all_there = asyncio.Barrier(300)

        async def client() -> tuple[str, str]:
            async with connected(SERVICE, way.port, way.opening) as (reader, writer):
                writer.write(b"upload\n" + b"x" * 70_000)
                await all_there.wait()
                writer.write_eof()
                return (await reader.read()).decode(), sha256(b"x" * 70_000).hexdigest()

        for seen, expected in await asyncio.gather(*(client() for _ in range(300))):
            assert seen == expected
        await tunnels.no_client_is_connected()
        assert tunnels.results("server/it") == {"ok": 300}


async def test_a_lost_link_ends_its_clients_and_leaves_nothing(
    server: Sshd | Dropbear, way: Way, tmp_path: Path
) -> None:
    async with running(tmp_path, file(server, way.line)) as tunnels:
        await tunnels.all_up()
        await upload(SERVICE, way.port, 1, way.opening)
        async with tunnels.nothing_left_behind():
            meter = tunnels.meter("server/it")
            before = meter.sent + meter.received
            clients = [asyncio.create_task(upload_without_end(way)) for _ in range(5)]
            # A client whose channel is still opening would get another one, without an error.
            await eventually(lambda: meter.sent + meter.received >= before + 5 * 70_000)
            links = tunnels.links
            await server.kill_sessions()
            # A client of a unix socket, or on the server, sees EOF: it cannot be reset.
            assert all(end in (b"", None) for end in await asyncio.gather(*clients))
            await tunnels.replaced(links)
            await tunnels.all_up()
            expected, seen = await upload(SERVICE, way.port, MIB, way.opening)
            assert seen == expected


async def upload_without_end(way: Way) -> bytes | None:
    """Send some bytes and return what arrives, None for a reset."""
    async with connected(SERVICE, way.port, way.opening) as (reader, writer):
        writer.write(b"upload\n" + b"x" * 70_000)
        try:
            return await reader.read()
        except ConnectionResetError:
            return None


async def test_a_tunnel_of_each_kind_shares_one_link(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """All tunnels of a target, in both directions, share its link."""
    here, there, proxy = free_port(), free_port(), free_port()
    lines = local("out", here, echo.port) + remote("back", there, echo.port) + socks("proxy", proxy)
    async with running(tmp_path, file(sshd, lines)) as tunnels:
        await tunnels.all_up("server/out", "server/back", "server/proxy")
        assert await exchange("127.0.0.1", here) == b"ping"
        assert await exchange("127.0.0.1", there) == b"ping"
        assert await exchange("127.0.0.1", echo.port, opening=by_socks(proxy)) == b"ping"
        assert len(tunnels.links) == 1
        assert sshd.sessions() == 1
