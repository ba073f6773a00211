"""Waits for conditions with a deadline, allocates ports, and reads the resources of a process."""

import asyncio
import fcntl
import inspect
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, overload

from support.container import temporary_root

T = TypeVar("T")

# Below the ephemeral range: no outgoing connection can take the port of a server that is briefly down.
_PORTS = range(15_000, 32_000)
_given_out: set[int] = set()
# One byte for each port. The process that uses a port locks its byte, so that parallel test runs use other ports.
_locked = os.open(temporary_root() / f"tunnels-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


# What the test waits for. A function is called at the deadline, so that it can show the state.
Message = str | Callable[[], str]
WITHIN = 30.0  # seconds; generous, for a machine that stalls at times
_ANSWER = 5.0  # seconds that an asynchronous condition may take beyond the deadline


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
    """Call `condition` until it is truthy and return its value. Raises AssertionError after `within` seconds.

    The condition is called once more at the deadline, in case the machine stalled until then.
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
            value = "none: the condition timed out"
        else:
            if value:
                return value
        if left <= 0:
            text = message() if callable(message) else message
            raise AssertionError(f"not within {within:g} s: {text or _source_of(condition)}; last value {value!r}")
        await asyncio.sleep(every)


def _source_of(condition: Callable[..., object]) -> str:
    """Return the source line of a condition, because a lambda has no useful name."""
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port without a listener, which no test of this or another run uses."""
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
        pass  # the file system has no locks
    return True


def has_listener(path: Path) -> bool:
    """Return True if a process listens on a unix socket. The file alone exists a moment earlier."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def fd_count(pid: int | None = None) -> int:
    """Return how many file descriptors a process (this one by default) has open."""
    own = pid is None or pid == os.getpid()
    # Listing the descriptors of this process opens one more.
    return len(list(Path(f"/proc/{pid or 'self'}/fd").iterdir())) - own


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process (this one by default)."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
