"""Ports that are chosen when the tunnel opens: any free one, or the first free one of a range; where they are told."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from reconciler.core.status import Phase
from support.endpoints import whole
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local, remote, running, socks, tunnel
from support.wait import eventually, free_port


async def test_port_0_is_kept_while_the_bastion_restarts(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with running(tmp_path, file(sshd, local("echo", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/echo")
        for _ in range(2):
            await sshd.restart()
            assert await exchange("127.0.0.1", port) == b"ping"
        assert tunnels.bound_port("server/echo") == port


async def test_port_0_is_kept_when_the_tunnel_was_off_for_a_while(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with running(tmp_path, file(sshd, local("echo", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/echo")
        tunnels.edit(file(sshd, local("echo", 0, echo.port, enabled="false")))
        await tunnels.until("server/echo", Phase.OFF)
        tunnels.edit(file(sshd, local("echo", 0, echo.port)))
        await tunnels.until("server/echo", Phase.UP)
        assert tunnels.bound_port("server/echo") == port


async def test_several_tunnels_with_port_0_have_each_their_own(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    lines = "".join(local(f"echo{number}", 0, echo.port) for number in range(3)) + socks("proxy", 0)
    async with running(tmp_path, file(sshd, lines)) as tunnels:
        await tunnels.all_up()
        ports = {tunnels.bound_port(f"server/{name}") for name in ("echo0", "echo1", "echo2", "proxy")}
        assert len(ports) == 4


async def test_a_range_takes_its_first_free_port(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    first = two_free_ports()
    line = local("echo", f'"{first}-{first + 1}"', echo.port)
    with socket.create_server(("127.0.0.1", first)):
        async with running(tmp_path, file(sshd, line)) as tunnels:
            await tunnels.all_up()
            assert tunnels.bound_port("server/echo") == first + 1
            assert await exchange("127.0.0.1", first + 1) == b"ping"


async def test_a_range_that_is_taken_is_told_and_taken_over_when_a_port_is_free(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    first = two_free_ports()
    line = local("echo", f'"{first}-{first + 1}"', echo.port)
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("127.0.0.1", first + 1)) as last:
        async with running(tmp_path, file(sshd, line)) as tunnels:
            verdict = await tunnels.until("server/echo", Phase.DOWN)
            assert verdict.reason == "local_port_in_use"
            assert f"{first}-{first + 1}" in verdict.message
            last.close()
            await tunnels.until("server/echo", Phase.UP)
            assert tunnels.bound_port("server/echo") == first + 1


async def test_two_tunnels_share_a_range(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    first = two_free_ports()
    lines = "".join(local(name, f'"{first}-{first + 1}"', echo.port) for name in ("one", "two"))
    async with running(tmp_path, file(sshd, lines)) as tunnels:
        await tunnels.all_up()
        assert {tunnels.bound_port("server/one"), tunnels.bound_port("server/two")} == {first, first + 1}


async def test_the_port_is_written_to_its_file_for_others_to_read(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    written, elsewhere = tmp_path / "made for it" / "echo.port", tmp_path / "other.port"
    async with running(tmp_path, file(sshd, local("echo", 0, echo.port, portFile=f'"{written}"'))) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/echo")
        assert written.read_text() == f"{port}\n"
        assert [path.name for path in written.parent.iterdir()] == ["echo.port"], "nothing half-written beside it"
        tunnels.edit(file(sshd, local("echo", 0, echo.port, portFile=elsewhere)))
        await tunnels.all_up()
        await eventually(lambda: elsewhere.exists() and elsewhere.read_text() == f"{port}\n")


async def test_a_fixed_port_is_written_to_its_file_too(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, written = free_port(), tmp_path / "echo.port"
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, portFile=written))) as tunnels:
        await tunnels.all_up()
        assert written.read_text() == f"{port}\n"


async def test_a_port_file_that_cannot_be_written_costs_nobody_the_tunnel(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    line = local("echo", 0, echo.port, portFile=tmp_path / "file" / "echo.port")
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", tunnels.bound_port("server/echo")) == b"ping"


async def test_a_file_that_holds_something_else_than_a_port_is_left_alone(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, old = tmp_path / "authorized_keys", tmp_path / "echo.port"
    keys.write_text("ssh-ed25519 AAAA me\n")
    old.write_text("65535\n")
    lines = local("one", 0, echo.port, portFile=keys), local("two", 0, echo.port, portFile=old)
    async with running(tmp_path, file(sshd, *lines)) as tunnels:
        await tunnels.all_up()
        assert keys.read_text() == "ssh-ed25519 AAAA me\n"
        assert "holds something else than a port" in caplog.text
        assert old.read_text() == f"{tunnels.bound_port('server/two')}\n"


async def test_machines_are_told_an_address_of_one_form_whether_it_is_bound_or_not(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    first, there, socket_there = two_free_ports(), free_port(), tmp_path / "there.sock"
    text = file(
        sshd,
        local("any", 0, echo.port, localHost='"::1"'),
        local("range", f'"{first}-{first + 1}"', echo.port),
        remote("back", there, echo.port),
        remote("chosen", 0, echo.port),
        tunnel("path", "remote", remoteSocket=socket_there, localHost="127.0.0.1", localPort=echo.port),
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        up = {one["name"]: one["listen"] for one in (await it.control.get("/api/v1/status"))["tunnels"]}
        assert all(re.fullmatch(r"127\.0\.0\.1:[1-9]\d*|\[::1\]:[1-9]\d*|/.*", listen) for listen in up.values()), up
        it.tunnels.edit(text.replace("    tunnels:", "    enabled: false\n    tunnels:"))
        await it.tunnels.until("server/back", Phase.OFF)
        await eventually(lambda: not it.tunnels.app.fleet.observe().sockets)
        off = {one["name"]: one["listen"] for one in (await it.control.get("/api/v1/status"))["tunnels"]}
        assert off == {
            "any": "[::1]:0",
            "range": f"127.0.0.1:{first}-{first + 1}",
            "back": f"127.0.0.1:{there}",
            "chosen": "127.0.0.1:0",
            "path": str(socket_there),
        }


def two_free_ports() -> int:
    """The first of two free neighbours."""
    while True:
        port = free_port()
        try:
            with socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
