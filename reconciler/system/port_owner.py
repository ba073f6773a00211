"""Who holds a TCP port on this machine, where it can be known: Linux, and a process whose descriptors we may read.

Reads /proc/net/tcp{,6} for the listening socket's inode and looks for the process that has it open. The answer is kept
by inode: a taken port is asked about every second, and a walk over all processes takes a while.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"


def owner_of_port(address: str) -> str | None:
    """`nginx (pid 123)` for a `host:port` in use, "" if it cannot be known (also for a path), None: nobody listens."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or address.startswith("/"):
        return ""
    lines = [line for table in ("/proc/net/tcp", "/proc/net/tcp6") for line in _lines(table)]
    if not lines:
        return ""
    listeners = [fields[9] for fields in lines if fields[3] == _LISTENING and _covers(fields[1], host, int(port))]
    if not listeners:
        return None
    return next((name for inode in listeners if (name := _process_with(inode))), "")


def _lines(table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()]
    except OSError:
        return []


def _covers(local: str, host: str, port: int) -> bool:
    """Whether a socket at this `0100007F:1F90` keeps others from the host's port. A name may mean any address."""
    address, _, number = local.rpartition(":")
    if int(number, 16) != port:
        return False
    try:
        asked = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return True
    there = _address(address)
    if there.is_unspecified:
        return there.version >= asked.version  # :: may stand for 0.0.0.0 too
    return there == asked or (asked.is_unspecified and asked.version == there.version)


def _address(text: str) -> IPv4Address | IPv6Address:
    """The kernel prints each four bytes of an address as a number of this machine."""
    words = (text[at : at + 8] for at in range(0, len(text), 8))
    found = ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


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
