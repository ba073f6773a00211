"""Source rules apply to each client, also if its address can no longer be queried or is not reported."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import asyncssh
import pytest

from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer, by_unix, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, socks, tunnel
from support.wait import eventually, free_port

CLIENTS = 40
DENIED = "127.0.0.3"
RULES = ({"deny": f"[{DENIED}]"}, {"allow": "[127.0.0.1]"}, {"allow": "[127.0.0.0/8]", "deny": f"[{DENIED}]"})
RESET = struct.pack("ii", 1, 0)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("size", [1, 60_000])
async def test_a_denied_client_that_resets_before_it_is_accepted_reaches_nothing(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, rules: dict[str, str], size: int
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, **rules))) as tunnels:
        await tunnels.all_up()
        send_and_reset(port, bytes(size))
        await all_came(tunnels, "server/echo")
        assert tunnels.results("server/echo") == {"denied": CLIENTS}
        assert echo.total == 0
        assert await exchange("127.0.0.1", port) == b"ping"


@pytest.mark.parametrize("rules", RULES)
async def test_a_denied_socks_client_that_resets_before_it_is_accepted_reaches_nothing(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, rules: dict[str, str]
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, **rules))) as tunnels:
        await tunnels.all_up()
        send_and_reset(port, asking_for(echo.port) + bytes(1000))
        await all_came(tunnels, "server/proxy")
        assert tunnels.results("server/proxy") == {"denied": CLIENTS}
        assert echo.total == 0


async def test_a_socks_client_that_resets_reaches_no_denied_destination(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    line = socks("proxy", port, denyDestinations=f'["127.0.0.1:{echo.port}"]')
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        send_and_reset(port, asking_for(echo.port) + bytes(1000))
        await all_came(tunnels, "server/proxy")
        assert "ok" not in tunnels.results("server/proxy")
        assert echo.total == 0


async def test_a_held_client_that_resets_is_checked_by_its_accept_address(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """The rule is added while the client is held, when getpeername() no longer works."""
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await eventually(lambda: not tunnels.links)
        with socket.create_connection(("127.0.0.1", port), source_address=(DENIED, 0)) as client:
            client.sendall(b"x")
            await eventually(lambda: tunnels.meter("server/echo").held == 1)
            tunnels.edit(file(sshd, local("echo", port, echo.port, deny=f"[{DENIED}]")))
            await eventually(lambda: tunnels.engine.desired.tunnels["server/echo"].policy.deny != ())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await sshd.start()
        await eventually(lambda: sum(tunnels.results("server/echo").values()) == 1)
        assert "ok" not in tunnels.results("server/echo")
        assert echo.total == 0


async def test_a_client_of_a_unix_socket_that_leaves_at_once_passes_source_rules(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    path = tmp_path / "db.sock"
    bound = tmp_path / "client.sock"
    line = tunnel("db", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=echo.port, allow="[192.0.2.0/24]")
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        for name in ("", str(bound), "\0abstract"):
            with socket.socket(socket.AF_UNIX) as client:
                if name:
                    client.bind(name)
                client.connect(str(path))
                client.sendall(b"x")
        await eventually(lambda: tunnels.results("server/db") == {"ok": 3})
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"


@pytest.mark.parametrize(
    "origin",
    ["", "UNKNOWN", "localhost", "127.0.0.3 ", "127.0.0.1\0", "127.0.0.1%lo", "127.1", "[127.0.0.1]", "x" * 5000],
)
async def test_a_client_with_an_unknown_origin_is_denied_by_source_rules(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path, origin: str
) -> None:
    port = free_port()
    async with running(tmp_path, file(asyncssh_server, remote("back", port, echo.port, deny=f"[{DENIED}]"))) as tunnels:
        await tunnels.all_up()
        with pytest.raises(asyncssh.ChannelOpenError):
            await forwarded(asyncssh_server, port, origin)
        with pytest.raises(asyncssh.ChannelOpenError):
            await forwarded(asyncssh_server, port, DENIED)
        assert echo.total == 0
        assert await forwarded(asyncssh_server, port, "127.0.0.1") == b"ping"
        assert tunnels.results("server/back") == {"denied": 2, "ok": 1}


async def test_a_client_with_an_unknown_origin_is_allowed_without_rules(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "reconciler.audit")
    port = free_port()
    async with running(tmp_path, file(asyncssh_server, remote("back", port, echo.port, audit="true"))) as tunnels:
        await tunnels.all_up()
        assert await forwarded(asyncssh_server, port, "") == b"ping"
        assert await forwarded(asyncssh_server, port, "\x1b[2J\u202e") == b"ping"
        await tunnels.no_client_is_connected()
    origins = [record.origin for record in caplog.records if "opened" in record.getMessage()]  # type: ignore[attr-defined]
    assert origins == ["unknown", r"\x1b[2J\u202e"]


def send_and_reset(port: int, data: bytes) -> None:
    """Clients that are reset before the event loop of the program, which is this one, can accept them."""
    for _ in range(CLIENTS):
        with socket.create_connection(("127.0.0.1", port), source_address=(DENIED, 0)) as client:
            client.sendall(data)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def asking_for(port: int) -> bytes:
    """A whole SOCKS handshake for a port of 127.0.0.1."""
    return b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2)


async def all_came(tunnels: Running, name: str) -> None:
    await eventually(
        lambda: sum(tunnels.results(name).values()) == CLIENTS, message=lambda: f"all came: {tunnels.results(name)}"
    )


async def forwarded(server: AsyncsshServer, port: int, origin: str) -> bytes:
    """Return what a client gets that the server reports with this origin."""
    [connection] = server._connections
    reader, writer = await connection.open_connection("127.0.0.1", port, orig_host=origin, orig_port=1)
    writer.write(b"ping")
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
