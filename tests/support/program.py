"""The program as a process of its own: to be killed, starved and measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from support.processes import tied_to_parent
from support.services import exchange
from support.wait import WITHIN, eventually, rss_bytes


class Program:
    """A running `tunnels run`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")

    def limit_descriptors(self, more: int | None) -> None:
        """From now on it may have so many more open than it has; None: as many as we may."""
        highest = max(int(entry.name) for entry in Path(f"/proc/{self.pid}/fd").iterdir())
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = min(highest + 1 + more, hard[1]) if more is not None else hard[0]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, hard[1]))

    def rss(self) -> int:
        return rss_bytes(self.pid)

    def cpu_seconds(self) -> float:
        """What it used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        self._process.kill()
        await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        # Not by its own method, which looks first whether it has ended, and so takes the exit code from asyncio.
        os.kill(self.pid, number)

    async def ended(self, within: float = WITHIN) -> int:
        """Its exit code, when it has ended by itself."""
        return await asyncio.wait_for(self._process.wait(), within)

    async def end(self) -> int:
        """SIGTERM twice: at once, in the orderly way. Its exit code."""
        before = self._ends_told()
        self.send(signal.SIGTERM)
        # Two signals of a kind that are both on their way are one.
        await eventually(lambda: self._process.returncode is not None or self._ends_told() > before)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGTERM)
        return await self.ended()

    def _ends_told(self) -> int:
        return self.log_text().count("ending: ")


@contextlib.asynccontextmanager
async def program(file: Path, *options: str, through: Sequence[str] = ()) -> AsyncIterator[Program]:
    """`tunnels run` on this file, killed at the end if it still runs; started by the command `through`, if given."""
    log = file.with_suffix(".log")
    run = ["-m", "reconciler", "run", str(file), "--listen", "none", "--control", "none"]
    command = [*through, sys.executable, *run, *options]
    environ = {"HOME": str(file.parent), "PATH": os.environ["PATH"]}
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(*tied_to_parent(command), stdout=out, stderr=out, env=environ)
    try:
        yield Program(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(port: int, *, within: float = WITHIN) -> None:
    """Wait until an echo service answers behind this port."""

    async def answered() -> bool:
        try:
            return await exchange("127.0.0.1", port) == b"ping"
        except OSError:
            return False

    await eventually(answered, within=within, message=f"an answer on port {port}")


def limited(soft: int, hard: int) -> list[str]:
    """What starts a command with these limits of open files."""
    return ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh"]


def limits(pid: int) -> tuple[int, int]:
    """The soft and the hard limit of open files of a process."""
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)
