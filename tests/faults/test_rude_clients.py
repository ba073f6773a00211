"""A client that leaves in a bad way costs nobody else anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.clients import all_move, moving
from support.faults import reset
from support.services import EchoServer, TcpService
from support.sshd import Sshd
from support.tunnels import file, local, remote, running
from support.wait import eventually, free_port

TURNS = 10


class Waiting(TcpService):
    """Says nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.read()
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", [local, remote])
async def test_a_reset_that_crosses_a_half_close_costs_the_others_nothing(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Callable[..., str]
) -> None:
    """A half-close of a connection that was reset just now fails; it once took the SSH connection along."""
    port, other = free_port(), free_port()
    async with Waiting() as service:
        text = file(sshd, kind("one", port, service.port), local("echo", other, echo.port))
        async with running(tmp_path, text) as run:
            await run.all_up()
            links = run.links
            async with moving([other] * 3) as movers:
                for turn in range(TURNS):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    await eventually(lambda turn=turn: len(service.writers) > turn)  # type: ignore[misc]
                    await all_move(movers)
                    ends = writer, service.writers[-1]
                    here, there = ends if kind is local else ends[::-1]  # as our relay sees them
                    there.write_eof()
                    time.sleep(0.05)  # noqa: ASYNC251 - our loop does not run while the half-close comes to its socket
                    reset(here.transport)
                    await all_move(movers)
                    writer.transport.abort()
                    service.writers[-1].transport.abort()
            assert run.links == links
    with capsys.disabled():
        print(f"\n  {TURNS} resets that crossed a half-close: 0 of 3 neighbours cut, the SSH connection is the same")
