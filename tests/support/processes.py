"""Starts, pauses and kills server processes with all their descendants. Linux only.

SSH servers fork a process for each connection, which leaves the process group (setsid). So descendants are found by the
parent ids in /proc.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from support.wait import WITHIN, eventually

# Children of the test process that outlive a single test. The check for left-over processes ignores them.
session_scoped: set[int] = set()

_GONE = "ZXx"
_HALTED = "Tt" + _GONE


class _Stat(NamedTuple):
    parent: int
    state: str


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may contain spaces and parentheses.
    state, parent = text[text.rindex(")") + 2 :].split(" ", 2)[:2]
    return _Stat(int(parent), state)


def _all_stats() -> dict[int, _Stat]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid: stat for pid in pids if (stat := _stat(pid)) is not None}


def children(pid: int) -> list[int]:
    """Return the live direct children, without zombies."""
    return sorted(child for child, stat in _all_stats().items() if stat.parent == pid and stat.state not in _GONE)


def with_descendants(roots: Iterable[int]) -> list[int]:
    """Return those of these processes that are alive, and their live descendants."""
    stats = _all_stats()
    found: list[int] = []
    level = [pid for pid in roots if pid in stats]
    while level:
        found += level
        level = [pid for pid, stat in stats.items() if stat.parent in level]
    return sorted(pid for pid in found if stats[pid].state not in _GONE)


def command_line(pid: int) -> str:
    """Return the command line of a process, for messages."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() or f"process {pid}"
    except (FileNotFoundError, ProcessLookupError):
        return f"process {pid}"


def is_alive(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat.state not in _GONE


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def halt(roots: Iterable[int], *, within: float = WITHIN) -> list[int]:
    """Stop whole process trees with SIGSTOP and return their pids. Stopped processes cannot fork, so none is missed."""
    roots = list(roots)
    deadline = time.monotonic() + within
    while True:
        tree = with_descendants(roots)
        running = [pid for pid in tree if (stat := _stat(pid)) is not None and stat.state not in _HALTED]
        if not running:
            return tree
        if time.monotonic() > deadline:
            raise AssertionError(f"processes {running} did not stop")
        send_signal(running, signal.SIGSTOP)
        time.sleep(0.0005)


async def kill_trees(roots: Iterable[int]) -> None:
    """Kill these processes with all descendants, and wait until their sockets are closed."""
    # Stop first: if a parent is killed before its child, init becomes the child's parent, and the child is not found.
    doomed = halt(roots)
    send_signal(doomed, signal.SIGKILL)
    await eventually(lambda: not any(map(is_alive, doomed)), message=f"the end of the killed processes {doomed}")


def tied_to_parent(command: list[str], *, by: str = "KILL") -> list[str]:
    """Return the same command, to which the kernel sends a signal when the test process dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", by, "--", *command] if setpriv else command


class ServerProcess:
    """A server in the foreground that forks a process for each connection. Its output goes to `log`."""

    def __init__(self, log: Path, ready: str) -> None:
        self.log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process that listens."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    async def start(self) -> None:
        """Start the server and wait until it listens."""
        started = self.running  # a local variable: mypy would assume the property stays false
        assert not started, "already started"
        seen = len(self.log_text())
        self._process = self._spawn()
        try:
            await eventually(
                lambda: not self.running or self._ready in self.log_text()[seen:], message=f"a start of {self!r}"
            )
            assert self.running, f"{self!r} ended at once:\n{self.log_text()[seen:]}"
        except BaseException:
            await self.stop()
            raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def stop(self) -> None:
        """Kill the listener and every session. Peers see FIN or RST."""
        process, self._process = self._process, None
        if process is None:
            return
        await kill_trees([process.pid])
        process.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def sessions(self) -> int:
        """Return the number of connections, logins in progress included."""
        return len(children(self.pid)) if self.running else 0

    async def kill_sessions(self) -> None:
        """Kill every connection. The listener stays."""
        await kill_trees(children(self.pid))

    def pause(self) -> None:
        """Stop all processes: TCP connections stay open without an answer."""
        halt([self.pid])

    def resume(self) -> None:
        send_signal(with_descendants([self.pid]), signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
