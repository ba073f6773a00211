"""Clients that move data during a whole test and check every byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from support.services import Opening, by_tcp, connected
from support.wait import WITHIN, eventually

# FAULTS_FULL=1: the long tests make all their repetitions.
FULL = os.environ.get("FAULTS_FULL") == "1"
LONG = 1800 if FULL else 120  # timeout of a long test, in seconds


class Mover:
    """A client of an echo service that exchanges blocks, `pause` seconds apart, and compares every byte."""

    def __init__(self, port: int, *, pause: float = 0.0, opening: Opening = by_tcp) -> None:
        self.port = port
        self.rounds = 0
        self._pause = pause
        self._opening = opening
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with connected("127.0.0.1", self.port, self._opening) as (reader, writer):
            while not self.stop.is_set():
                block = os.urandom(4096)
                writer.write(block)
                assert await reader.readexactly(len(block)) == block
                self.rounds += 1
                await asyncio.sleep(self._pause)

    async def moves(self) -> None:
        """Wait until it has moved more data."""
        before = self.rounds
        await eventually(lambda: self.rounds > before + 1 or self.task.done(), every=0.02)
        if self.task.done():
            await self.task

    async def is_cut(self) -> None:
        """Wait until its connection is reset."""
        await asyncio.wait({self.task}, timeout=WITHIN)
        assert self.task.done(), "the client is not cut"
        # The next read or the next write reports the reset, as the kernel chooses.
        expected = ConnectionResetError | BrokenPipeError | asyncio.IncompleteReadError
        assert isinstance(self.task.exception(), expected), self.task

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def all_move(movers: Iterable[Mover]) -> None:
    """Wait until each mover has moved more data."""
    await asyncio.gather(*(mover.moves() for mover in movers))


@contextlib.asynccontextmanager
async def moving(ports: Iterable[int], *, pause: float = 0.0) -> AsyncIterator[list[Mover]]:
    """Run a mover on each port during the block. At the end, check that none lost data."""
    movers = [Mover(port, pause=pause) for port in ports]
    try:
        await all_move(movers)
        yield movers
        await all_move(movers)
        for mover in movers:
            await mover.end()
    finally:
        for mover in movers:
            mover.task.cancel()
        await asyncio.gather(*(mover.task for mover in movers), return_exceptions=True)


def listening_inodes() -> dict[int, str]:
    """Return port -> inode of the socket that listens there. Another inode is another socket."""
    # The kernel prints the table in pieces. A piece may lack a row while sockets come and go.
    return _read_listening() | _read_listening()


def _read_listening() -> dict[int, str]:
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16): row[9] for row in rows if row[3] == "0A"}
