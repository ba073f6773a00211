"""An edit touches only what it names; a broken file touches nothing."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.clients import Mover, listening_inodes
from support.services import EchoServer, GreetingServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import local, running, target
from support.wait import WITHIN, eventually, free_port

TUNNELS = 50


async def test_an_edit_of_three_of_fifty_tunnels_does_not_affect_the_others(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    ports = [free_port() for _ in range(TUNNELS)]
    lines = [local(f"t{number}", port, echo.port) for number, port in enumerate(ports)]
    head = "targets:\n" + target(sshd)
    async with running(tmp_path, head + "".join(lines)) as tunnels:
        await tunnels.all_up()
        movers = [Mover(port) for port in ports]
        for mover in movers:
            await mover.moves()
        before = listening_inodes()
        edited_port, added_port = free_port(), free_port()
        lines[0] = local("t0", edited_port, echo.port)
        removed = lines.pop(1)
        assert "t1" in removed
        lines.append(local("added", added_port, echo.port))
        tunnels.edit(head + "".join(lines))
        await tunnels.all_up(*(f"server/t{number}" for number in (0, *range(2, TUNNELS))), "server/added")
        assert await exchange("127.0.0.1", edited_port) == b"ping"
        assert await exchange("127.0.0.1", added_port) == b"ping"
        for gone in ports[:2]:
            with pytest.raises(ConnectionRefusedError):
                await exchange("127.0.0.1", gone)
        for mover in movers:  # clients of the two closed sockets may still drain; no other client is affected
            await mover.moves()
        after = listening_inodes()
        assert [after.get(port) for port in ports[2:]] == [before[port] for port in ports[2:]]
        for mover in movers:
            await mover.end()


async def test_a_broken_file_changes_nothing_and_is_reported(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    text = "targets:\n" + target(sshd) + local("echo", port, echo.port)
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        mover = Mover(port)
        await mover.moves()
        tunnels.edit(text.replace("localPort", "localPrt"))
        await eventually(lambda: "localPrt" in caplog.text and "tunnels.yaml:" in caplog.text)
        await mover.moves()
        assert await exchange("127.0.0.1", port) == b"ping"
        assert tunnels.phases() == {"server/echo": Phase.UP}
        tunnels.edit(text)
        await mover.end()


async def test_a_changed_port_moves_the_tunnel_and_drains_its_client(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    old, new = free_port(), free_port()
    head = "targets:\n" + target(sshd)
    async with running(tmp_path, head + local("echo", old, echo.port)) as tunnels:
        await tunnels.all_up()
        mover = Mover(old)
        await mover.moves()
        tunnels.edit(head + local("echo", new, echo.port))
        await eventually(partial(can_connect, new))
        await mover.moves()
        with pytest.raises(ConnectionRefusedError):
            await exchange("127.0.0.1", old)
        await mover.end()


async def test_a_new_destination_keeps_the_port_open(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    head = "targets:\n" + target(sshd)
    async with GreetingServer("old") as old, GreetingServer("new") as new:
        async with running(tmp_path, head + local("one", port, old.port)) as tunnels:
            await tunnels.all_up()
            inode = listening_inodes()[port]
            assert await greeting(port) == b"old"
            tunnels.edit(head + local("one", port, new.port))
            await eventually(partial(greets, port, b"new"))
            assert listening_inodes()[port] == inode


async def test_a_drained_client_is_cut_at_its_deadline(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    head = "targets:\n" + target(sshd)
    keep = local("keep", other, echo.port)
    async with running(tmp_path, head + keep + local("gone", port, echo.port, drainTimeout="200ms")) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            tunnels.edit(head + keep)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), WITHIN)
        assert await exchange("127.0.0.1", other) == b"ping"


async def test_a_tunnel_restored_while_its_client_drains_keeps_the_client(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    head = "targets:\n" + target(sshd)
    keep, gone = local("keep", other, echo.port), local("gone", port, echo.port, drainTimeout="1h")
    async with running(tmp_path, head + keep + gone) as tunnels:
        await tunnels.all_up()
        mover = Mover(port)
        await mover.moves()
        tunnels.edit(head + keep)
        await tunnels.all_up("server/keep")
        tunnels.edit(head + keep + gone)
        await tunnels.all_up("server/keep", "server/gone")
        await eventually(lambda: not any(flow.draining for flow in tunnels.engine.actuator.observe().flows))
        await mover.moves()
        await mover.end()


async def test_a_silent_host_does_not_affect_another_target(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, dead = free_port(), free_port()
    text = (
        "targets:\n"
        + target(sshd)
        + local("echo", port, echo.port)
        + target(sshd, "dead", port=free_port())
        + local("never", dead, echo.port, holdTimeout="300ms")
    )
    async with running(tmp_path, text) as tunnels:
        await tunnels.until("server/echo", Phase.UP)
        verdict = await tunnels.until("dead/never", Phase.DOWN)
        assert verdict.reason == "refused"
        assert await exchange("127.0.0.1", port) == b"ping"
        with pytest.raises(ConnectionResetError):
            await exchange("127.0.0.1", dead)  # held, then refused


async def test_a_taken_port_is_reported_and_bound_when_free(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    listen = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('there', flush=True); s.accept()"
    squatter = await asyncio.create_subprocess_exec(sys.executable, "-c", listen, stdout=asyncio.subprocess.PIPE)
    assert squatter.stdout is not None
    assert await squatter.stdout.readline() == b"there\n"
    async with running(tmp_path, "targets:\n" + target(sshd) + local("echo", port, echo.port)) as tunnels:
        verdict = await tunnels.until("server/echo", Phase.DOWN)
        assert verdict.reason == "local_port_in_use"
        assert str(squatter.pid) in verdict.message, "the holder is named"
        squatter.kill()
        await squatter.communicate()
        await tunnels.until("server/echo", Phase.UP)


async def can_connect(port: int) -> bool:
    try:
        return await exchange("127.0.0.1", port) == b"ping"
    except ConnectionError:
        return False


async def greeting(port: int) -> bytes:
    async with connected("127.0.0.1", port) as (reader, _):
        return await reader.read(100)


async def greets(port: int, text: bytes) -> bool:
    return await greeting(port) == text
