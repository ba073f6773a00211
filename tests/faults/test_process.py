"""Faults of the process itself: no free descriptors, SIGKILL, a half-written file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.clients import moving
from support.program import answers, program
from support.services import EchoServer, by_tcp, by_unix, connected, exchange
from support.sshd import Sshd
from support.tunnels import file, local, remote, running
from support.wait import eventually, free_port

MORE = 12  # free descriptors when the crowd of clients connects
CROWD = 60


async def test_a_full_descriptor_table_affects_only_new_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    config = tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port), local("other", other, echo.port)))
    async with program(config) as tunnels:
        await answers(port)
        async with moving([port, other]) as movers:
            tunnels.limit_descriptors(MORE)
            decided = asyncio.Barrier(CROWD)
            results = await asyncio.gather(*(visit(port, decided) for _ in range(CROWD)))
            for mover in movers:
                await mover.moves()
            served, refused = results.count("served"), results.count("reset")
            tunnels.limit_descriptors(None)
            await answers(port)
            await answers(other)
        assert await tunnels.end() == 0
        log = tunnels.log_text()
    assert served + refused == CROWD
    assert served > 0
    assert refused > 0
    assert "Traceback" not in log
    assert "change detected" not in log, "writing the log file must not count as a change of the directory"


async def test_a_killed_process_has_all_its_listeners_after_a_restart(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, far, path = free_port(), free_port(), tmp_path / "echo.sock"
    lines = (
        local("echo", port, echo.port),
        f"      - {{name: unix, type: local, localSocket: {path}, remotePort: {echo.port}}}\n",
        remote("far", far, echo.port),
    )
    config = tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, *lines))
    async with program(config) as first:
        await answers(port)
        await answers(far)
        async with connected("127.0.0.1", port) as (reader, writer):  # a client is in the middle of an exchange
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await first.kill()
            assert await reader.read() == b""
    async with program(config) as second:
        await answers(port)
        await answers(far)
        assert await exchange("", 0, b"ping", by_unix(path)) == b"ping"
        assert await second.end() == 0


async def test_a_connection_ends_with_the_last_listener_on_the_server(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    far = free_port()
    async with running(tmp_path, file(sshd, remote("far", far, echo.port))) as tunnels:
        await tunnels.all_up()
        tunnels.edit("targets: {}\n")
        await eventually(lambda: not tunnels.links)
        await eventually(lambda: not sshd.sessions())


@pytest.mark.parametrize("end", ["in the middle of a word", "at the end of a line", "after nothing"])
async def test_a_half_written_file_affects_no_client(
    end: str, sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, other = free_port(), free_port()
    text = file(sshd, local("echo", port, echo.port), local("other", other, echo.port))
    cut = {"in the middle of a word": text.index("remotePort") + 5, "at the end of a line": text.index("    tunnels:")}
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        async with moving([port, other], pause=0.001) as movers:
            tunnels.file.write_text(text[: cut.get(end, 0)])  # in place, without the rename that would make it atomic
            if end == "after nothing":
                await eventually(lambda: "empty" in caplog.text)
            elif end == "in the middle of a word":
                await eventually(lambda: "tunnels.yaml:" in caplog.text)
            else:  # a valid file without tunnels: clients drain, and the tunnels are restored before the deadline
                await eventually(lambda: not tunnels.phases())
            for mover in movers:
                await mover.moves()
            tunnels.file.write_text(text)
            await tunnels.all_up("server/echo", "server/other")
            assert await exchange("127.0.0.1", port) == b"ping"


async def visit(port: int, decided: asyncio.Barrier) -> str:
    """Connect, stay until every client is served or refused, and return the result.

    A served client stays connected, so that its descriptor is not free for the next client.
    """
    result = await admission(port, decided)
    if result != "served":
        await decided.wait()
    return result


async def admission(port: int, decided: asyncio.Barrier) -> str:
    try:
        reader, writer = await by_tcp("127.0.0.1", port)
        try:
            writer.write(b"here")
            async with asyncio.timeout(60):
                assert await reader.readexactly(4) == b"here"
            await decided.wait()
        finally:
            writer.transport.abort()
    except ConnectionError:
        return "reset"
    except asyncio.IncompleteReadError:
        return "closed"
    except TimeoutError:
        return "unanswered"
    return "served"
