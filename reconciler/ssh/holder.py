"""Who holds a TCP port on this machine, where it can be known: Linux, and a process whose descriptors we may read.

Reads /proc/net/tcp{,6} for the listening socket's inode and looks for the process that has it open. The answer is kept
by inode: a taken port is asked about every second, and a walk over all processes takes a while.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

_LISTENING = "0A"


def holder_of(address: str) -> str:
    """`nginx (pid 123)` for a `host:port` in use, "" if it cannot be known (also for a path)."""
    port = address.rpartition(":")[2]
    if not port.isdigit():
        return ""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for inode in _listeners(table, int(port)):
            if found := _process_with(inode):
                return found
    return ""


def _listeners(table: str, port: int) -> list[str]:
    try:
        lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [f[9] for f in fields if f[3] == _LISTENING and int(f[1].rpartition(":")[2], 16) == port]


@lru_cache(maxsize=64)
def _process_with(inode: str) -> str:
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(entry.readlink()) == wanted for entry in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return "this process itself" if int(process.name) == os.getpid() else f"{name} (pid {process.name})"
        except OSError:  # not ours to read, or gone meanwhile
            continue
    return ""
