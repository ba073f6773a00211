"""Waiting for a condition with a deadline, ports for the tests, and what a process has in use."""

import asyncio
import contextlib
import fcntl
import inspect
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar, overload

from support.container import temporary_root

T = TypeVar("T")

# Below the ephemeral ranges: no outgoing connection can take the port of a server that is down for a moment.
_PORTS = range(15_000, 32_000)
_given_out: set[int] = set()
# One byte of it for each port, locked by the process that gave the port out: other runs of these tests keep off it.
_locked = os.open(temporary_root() / f"tunnels-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


# What was waited for; or what says it, with how things are when the time is over.
Message = str | Callable[[], str]
WITHIN = 30.0  # seconds, of which all but a few are for a machine that stands still now and then
_TICK = 0.01  # seconds
_STANDSTILL = 0.1  # an event loop that sleeps for a tick is never so late by its own doing
_ANSWER = 5.0  # seconds that a condition which waits for somebody may still take when the time is over


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, T]],
    *,
    within: float = WITHIN,
    message: Message = "",
    every: float = 0.005,
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], *, within: float = WITHIN, message: Message = "", every: float = 0.005
) -> T: ...


async def eventually(
    condition: Callable[[], Any], *, within: float = WITHIN, message: Message = "", every: float = 0.005
) -> Any:
    """Call `condition` until it is truthy and return that value; AssertionError after `within` seconds.

    It is asked once more when the time is over: a machine that stood still meanwhile had no time to make it true.
    """
    deadline, value = time.monotonic() + within, None
    while True:
        left = deadline - time.monotonic()
        limit = asyncio.timeout(max(left, 0) + _ANSWER)
        try:
            async with limit:
                result = condition()
                value = await result if inspect.isawaitable(result) else result
        except TimeoutError:
            if not limit.expired():
                raise
            value = "none: it did not answer"
        else:
            if value:
                return value
        if left <= 0:
            said = message() if callable(message) else message
            raise AssertionError(f"not within {within:g} s: {said or _source_of(condition)}; last answer {value!r}")
        await asyncio.sleep(every)


class Awake:
    """Counts the seconds in which this process could run.

    Of a time in which it stood still, because the machine did or had others to serve, only what it worked itself
    counts: what something takes can be told from what happened to come in between.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    async def _count(self) -> None:
        last, worked = time.monotonic(), time.process_time()
        while True:
            await asyncio.sleep(_TICK)
            now, work = time.monotonic(), time.process_time()
            self.seconds += min(now - last, max(_STANDSTILL, work - worked))
            last, worked = now, work

    @classmethod
    @contextlib.asynccontextmanager
    async def counted(cls) -> AsyncIterator[Self]:
        awake = cls()
        task = asyncio.create_task(awake._count())
        try:
            yield awake
        finally:
            task.cancel()
            await asyncio.wait({task})


def _source_of(condition: Callable[..., object]) -> str:
    """A lambda has no name worth reading: its source line says what was awaited."""
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that neither this process nor another one of ours has given out before."""
    for _ in range(1000):
        port = random.choice(_PORTS)
        if port in _given_out or not _is_ours(port):
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given_out.add(port)
        return port
    raise RuntimeError(f"no free port on {host} in {_PORTS}")


def _is_ours(port: int) -> bool:
    try:
        fcntl.lockf(_locked, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass  # no locks in this file system: then nobody has one
    return True


def is_heard(path: Path) -> bool:
    """Whether somebody listens on a unix socket; its file is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def fd_count(pid: int | None = None) -> int:
    """How many file descriptors a process (this one by default) has open."""
    own = pid is None or pid == os.getpid()
    # Listing one's own descriptors opens one more.
    return len(list(Path(f"/proc/{pid or 'self'}/fd").iterdir())) - own


def rss_bytes(pid: int | None = None) -> int:
    """Resident memory of a process (this one by default)."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
