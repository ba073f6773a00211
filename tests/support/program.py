"""Runs the program as a separate process, which tests kill, limit and measure."""

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
        """Let the program open `more` descriptors beyond those that are open, or as many as this process may."""
        highest = max(int(entry.name) for entry in Path(f"/proc/{self.pid}/fd").iterdir())
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = min(highest + 1 + more, hard[1]) if more is not None else hard[0]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, hard[1]))

    def rss(self) -> int:
        return rss_bytes(self.pid)

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def kill(self) -> None:
        """Kill the program with SIGKILL."""
        self._process.kill()
        await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        # Not the process object's method: it polls the process and so takes the exit code from asyncio.
        os.kill(self.pid, number)

    async def ended(self, within: float = WITHIN) -> int:
        """Wait until it has ended by itself and return its exit code."""
        return await asyncio.wait_for(self._process.wait(), within)

    async def end(self) -> int:
        """Shut down without draining (SIGTERM twice) and return the exit code."""
        before = self._shutdowns_logged()
        self.send(signal.SIGTERM)
        # The kernel merges two pending signals of one kind, so wait for the first to be handled.
        await eventually(lambda: self._process.returncode is not None or self._shutdowns_logged() > before)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGTERM)
        return await self.ended()

    def _shutdowns_logged(self) -> int:
        return self.log_text().count("ending: ")


@contextlib.asynccontextmanager
async def program(file: Path, *options: str, through: Sequence[str] = ()) -> AsyncIterator[Program]:
    """Run `tunnels run` on this file, by the command `through` if given. Kill it at the end if it still runs."""
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
    """Return a command prefix that sets these limits of open files."""
    return ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh"]


def limits(pid: int) -> tuple[int, int]:
    """Return the soft and the hard limit of open files of a process."""
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)
