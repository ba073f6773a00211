"""Clients that are there for the whole of a test and know at every moment that nothing of theirs was lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from support.services import Opening, by_tcp, connected
from support.wait import WITHIN, eventually

# How often the long tests repeat what they do: the whole number is for a machine that has the time.
FULL = os.environ.get("FAULTS_FULL") == "1"
LONG = 1800 if FULL else 120  # seconds for one of these


class Mover:
    """A client of an echo service that moves data, `pause` seconds after each answer, and compares every byte."""

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
        """Wait until it has moved some more."""
        before = self.rounds
        await eventually(lambda: self.rounds > before + 1 or self.task.done(), every=0.02)
        if self.task.done():
            await self.task

    async def is_cut(self) -> None:
        """Wait until it is told, by a reset, that it may not go on."""
        await asyncio.wait({self.task}, timeout=WITHIN)
        assert self.task.done(), "it goes on"
        # Whether it learns of the reset by its next read or by its next write is the kernel's choice.
        told = ConnectionResetError | BrokenPipeError | asyncio.IncompleteReadError
        assert isinstance(self.task.exception(), told), self.task

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def all_move(movers: Iterable[Mover]) -> None:
    """Wait until each of them has moved some more."""
    await asyncio.gather(*(mover.moves() for mover in movers))


@contextlib.asynccontextmanager
async def moving(ports: Iterable[int], *, pause: float = 0.0) -> AsyncIterator[list[Mover]]:
    """A mover on each port, all of them under way; at the end each is asked whether it lost anything."""
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
    """Port -> inode of the socket that listens on it in this process's network: another inode is another socket."""
    # The kernel tells them in pieces: one of which others come or go meanwhile may lack a row.
    return _told_as_listening() | _told_as_listening()


def _told_as_listening() -> dict[int, str]:
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16): row[9] for row in rows if row[3] == "0A"}
