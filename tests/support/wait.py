"""Waiting for a condition with a deadline, ports for the tests, and what a process has in use."""

import asyncio
import inspect
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Below the ephemeral ranges: no outgoing connection can take the port of a server that is down for a moment.
_PORTS = range(15_000, 32_000)
_given_out: set[int] = set()


# What was waited for; or what says it, with how things are when the time is over.
Message = str | Callable[[], str]
_ANSWER = 5.0  # seconds that a condition which waits for somebody may still take when the time is over


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, T]],
    *,
    within: float = 10.0,
    message: Message = "",
    every: float = 0.005,
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], *, within: float = 10.0, message: Message = "", every: float = 0.005
) -> T: ...


async def eventually(
    condition: Callable[[], Any], *, within: float = 10.0, message: Message = "", every: float = 0.005
) -> Any:
    """Call `condition` until it is truthy and return that value; AssertionError after `within` seconds."""
    deadline, value = time.monotonic() + within, None
    while True:
        limit = asyncio.timeout(deadline + _ANSWER - time.monotonic())
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
        if time.monotonic() >= deadline:
            said = message() if callable(message) else message
            raise AssertionError(f"not within {within:g} s: {said or _source_of(condition)}; last answer {value!r}")
        await asyncio.sleep(every)


def _source_of(condition: Callable[..., object]) -> str:
    """A lambda has no name worth reading: its source line says what was awaited."""
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on and that this process has not given out before."""
    for _ in range(1000):
        port = random.choice(_PORTS)
        if port in _given_out:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given_out.add(port)
        return port
    raise RuntimeError(f"no free port on {host} in {_PORTS}")


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
