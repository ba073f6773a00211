"""The process itself in trouble: no descriptors left, killed without a word, a file that is half written."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.clients import moving
from support.program import answers, program
from support.services import EchoServer, by_tcp, by_unix, connected, exchange
from support.sshd import Sshd
from support.tunnels import file, local, remote, running
from support.wait import eventually, fd_count, free_port

MORE = 12  # descriptors that are left when the crowd comes
CROWD = 60


async def test_a_full_descriptor_table_costs_only_those_who_come_then(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, other = free_port(), free_port()
    config = tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port), local("other", other, echo.port)))
    async with program(config) as tunnels:
        await answers(port)
        async with moving([port, other]) as movers:
            tunnels.limit_descriptors(MORE)
            used = tunnels.cpu_seconds()
            began = time.monotonic()
            decided = asyncio.Barrier(CROWD)
            results = await asyncio.gather(*(visit(port, decided) for _ in range(CROWD)))
            for mover in movers:
                await mover.moves()
            took, used = time.monotonic() - began, tunnels.cpu_seconds() - used
            served, refused = results.count("served"), results.count("reset")
            full = fd_count(tunnels.pid)
            tunnels.limit_descriptors(None)
            freed = time.monotonic()
            await answers(port)
            await answers(other)
            again = time.monotonic() - freed
        assert await tunnels.end() == 0
        said = tunnels.log_text()
    with capsys.disabled():
        print(
            f"\n  room for {MORE} more descriptors, {CROWD} clients at once: {served} served, {refused} reset, "
            f"{CROWD - served - refused} unanswered, in {took:.1f} s with {used:.2f} s of CPU; two old clients lost "
            f"nothing; served again {again:.2f} s after there was room; {full} descriptors; log {len(said)} bytes"
        )
    assert served + refused == CROWD
    assert served > 0
    assert refused > 0
    assert "Traceback" not in said
    assert "change detected" not in said, "a log beside the file must not feed itself"


async def test_a_process_killed_without_a_word_is_back_with_all_its_listeners(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        async with connected("127.0.0.1", port) as (reader, writer):  # somebody is in the middle of something
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await first.kill()
            assert await reader.read() == b""
    killed = time.monotonic()
    async with program(config) as second:
        took = []
        for place in (port, far):
            await answers(place)
            took.append(time.monotonic() - killed)
        assert await exchange("", 0, b"ping", by_unix(path)) == b"ping"
        assert await second.end() == 0
    with capsys.disabled():
        print(f"\n  killed and started again: local port back after {took[0]:.2f} s, remote after {took[1]:.2f} s")


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
async def test_a_file_that_is_half_written_disturbs_nobody(
    end: str, sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, other = free_port(), free_port()
    text = file(sshd, local("echo", port, echo.port), local("other", other, echo.port))
    cut = {"in the middle of a word": text.index("remotePort") + 5, "at the end of a line": text.index("    tunnels:")}
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        async with moving([port, other], pause=0.001) as movers:
            tunnels.file.write_text(text[: cut.get(end, 0)])  # in place: not renamed over it, as one should
            if end == "after nothing":
                await eventually(lambda: "empty" in caplog.text)
            elif end == "in the middle of a word":
                await eventually(lambda: "tunnels.yaml:" in caplog.text)
            else:  # a valid file without tunnels: their clients drain, and find them again
                await eventually(lambda: not tunnels.phases())
            for mover in movers:
                await mover.moves()
            tunnels.file.write_text(text)
            await tunnels.all_up("server/echo", "server/other")
            assert await exchange("127.0.0.1", port) == b"ping"


async def visit(port: int, decided: asyncio.Barrier) -> str:
    """Come, stay until everybody is served or sent away, and tell how it went.

    A client that is served stays, so that its descriptor is not free for the next one.
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
