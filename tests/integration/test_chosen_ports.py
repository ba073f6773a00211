"""Ports that are assigned when a tunnel opens: any free one, or the first of a range; and port files."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from reconciler.ssh.listeners import port_files
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.port_file import write_port_file
from support.endpoints import whole
from support.program import answers, program
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, socks, tunnel
from support.wait import eventually, free_port


async def test_an_assigned_port_is_kept_while_the_server_restarts(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with running(tmp_path, file(sshd, local("echo", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/echo")
        for _ in range(2):
            await sshd.restart()
            assert await exchange("127.0.0.1", port) == b"ping"
        assert tunnels.bound_port("server/echo") == port


async def test_an_assigned_port_is_kept_while_the_tunnel_is_off(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with running(tmp_path, file(sshd, local("echo", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        port = tunnels.bound_port("server/echo")
        tunnels.edit(file(sshd, local("echo", 0, echo.port, enabled="false")))
        await tunnels.until("server/echo", Phase.OFF)
        tunnels.edit(file(sshd, local("echo", 0, echo.port)))
        await tunnels.until("server/echo", Phase.UP)
        assert tunnels.bound_port("server/echo") == port


async def test_each_tunnel_with_port_0_gets_its_own_port(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_a_taken_range_is_reported_until_a_port_is_free(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_the_port_is_written_to_a_readable_file(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_a_tunnel_works_without_its_port_file(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = local("echo", 0, echo.port, portFile=tmp_path / "file" / "echo.port")
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", tunnels.bound_port("server/echo")) == b"ping"


async def test_a_file_without_a_port_is_not_overwritten(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, pid = tmp_path / "authorized_keys", tmp_path / "other.pid"
    keys.write_text("ssh-ed25519 AAAA me\n")
    pid.write_text("4711\n")
    lines = local("one", 0, echo.port, portFile=keys), local("two", 0, echo.port, portFile=pid)
    async with running(tmp_path, file(sshd, *lines)) as tunnels:
        await tunnels.all_up()
        assert (keys.read_text(), pid.read_text()) == ("ssh-ed25519 AAAA me\n", "4711\n")
        assert "does not hold a port" in caplog.text
        for name in ("one", "two"):
            verdict = tunnels.verdict(f"server/{name}")
            assert verdict is not None
            assert "`portFile`" in verdict.message
            assert "stays unchanged" in verdict.message
            assert verdict.reason is None


async def test_an_edit_of_a_port_file_cuts_no_client(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """Opening /dev/ptmx creates a terminal, and reads from it block: this once ended the process."""
    port, other = free_port(), free_port()
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").write_text("")
    os.mkfifo(tmp_path / "pipe")
    good = tmp_path / "good.port"

    def text(path: object) -> str:
        return file(sshd, local("one", port, echo.port, portFile=path), local("two", other, echo.port))

    async with running(tmp_path, text(good)) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as mine, connected("127.0.0.1", other) as neighbour:
            for path in ("/dev/ptmx", "/dev/zero", *(tmp_path / name for name in ("directory", "empty", "pipe")), good):
                tunnels.edit(text(path))
                expected = "" if path == good else f"cannot write its `portFile` {path}: "
                await eventually(partial(_reports, tunnels, "server/one", expected))
                for reader, writer in (mine, neighbour):
                    writer.write(b"x")
                    assert await reader.readexactly(1) == b"x"
            tunnels.edit(text("/dev/ptmx"))
            await eventually(lambda: _reports(tunnels, "server/one", "cannot write its `portFile` /dev/ptmx"))
            assert good.read_text() == f"{port}\n", "an old file stays"


async def test_a_hanging_file_system_does_not_delay_tunnels(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = threading.Event()

    def hang(path: str, number: int) -> None:
        assert answering.wait(60)
        write_port_file(path, number)

    monkeypatch.setattr(port_files, "write_port_file", hang)
    monkeypatch.setattr(port_files, "PORT_FILE_TIMEOUT", 0.2)
    written = tmp_path / "echo.port"
    async with running(tmp_path, file(sshd, local("echo", 0, echo.port, portFile=written))) as tunnels:
        try:
            await tunnels.all_up()
            assert _reports(tunnels, "server/echo", "is not written yet")
            assert await exchange("127.0.0.1", tunnels.bound_port("server/echo")) == b"ping"
        finally:
            answering.set()
        await eventually(lambda: _reports(tunnels, "server/echo", ""))
        assert written.read_text() == f"{tunnels.bound_port('server/echo')}\n"


async def test_hanging_port_files_do_not_use_up_other_threads(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = threading.Event()
    monkeypatch.setattr(port_files, "write_port_file", lambda *_: answering.wait(120))
    monkeypatch.setattr(port_files, "PORT_FILE_TIMEOUT", 0.2)
    asyncio.get_running_loop().set_default_executor(DaemonThreads(4))  # `tunnels run` has 32
    many = [local(f"p{number}", 0, echo.port, portFile=tmp_path / f"p{number}") for number in range(8)]
    async with running(tmp_path, file(sshd, *many)) as tunnels:
        try:
            await tunnels.all_up()
            port = free_port()
            tunnels.edit(file(sshd, *many, local("new", port, echo.port)))
            await tunnels.until("server/new", Phase.UP)
            link = tunnels.links
            tunnels.restart("server")  # reads and decodes the key
            await eventually(lambda: tunnels.links and not set(tunnels.links) & set(link))
            await answers(port)
        finally:
            answering.set()


async def test_a_restarted_process_replaces_its_port_file(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    written = tmp_path / "echo.port"
    config = tmp_path / "tunnels.yaml"
    for _ in range(2):
        port = free_port()
        config.write_text(file(sshd, local("echo", port, echo.port, portFile=written)))
        async with program(config) as process:
            await answers(port)
            await eventually(partial(_holds, written, f"{port}\n"))
            await process.kill()
        assert written.exists()


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _reports(tunnels: Running, tunnel: str, expected: str) -> bool:
    """Return True if the tunnel is up and its message contains `expected` ("": has no message)."""
    verdict = tunnels.verdict(tunnel)
    is_up = verdict is not None and verdict.phase is Phase.UP
    return is_up and verdict is not None and (expected in verdict.message if expected else not verdict.message)


async def test_json_gives_an_address_in_one_form_bound_or_not(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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
        # What was observed in the last pass: the status is made from it.
        await eventually(lambda: not it.tunnels.engine.observed.sockets)
        off = {one["name"]: one["listen"] for one in (await it.control.get("/api/v1/status"))["tunnels"]}
        assert off == {
            "any": "[::1]:0",
            "range": f"127.0.0.1:{first}-{first + 1}",
            "back": f"127.0.0.1:{there}",
            "chosen": "127.0.0.1:0",
            "path": str(socket_there),
        }


def two_free_ports() -> int:
    """Return the first of two adjacent free ports."""
    while True:
        port = free_port()
        try:
            with socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
