"""Finds the process that listens on a TCP port of this machine. Linux only; needs permission to read its descriptors.

Reads the listening socket's inode from /proc/net/tcp{,6} and finds the process that has it open. The answer is cached
by inode: a taken port is looked up every second, and reading the descriptors of all processes is slow.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"


def owner_of_port(address: str) -> str | None:
    """Return the owner of a `host:port`, such as `nginx (pid 123)`; None if the port is free.

    Return "" if the owner cannot be found, and for a path.
    """
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
    """Return True if a socket at `local` (`0100007F:1F90`) occupies the host's port. A name matches any address."""
    address, _, number = local.rpartition(":")
    if int(number, 16) != port:
        return False
    try:
        wanted = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return True
    bound = _address(address)
    if bound.is_unspecified:
        return bound.version >= wanted.version  # a socket on :: may accept IPv4 too
    return bound == wanted or (wanted.is_unspecified and wanted.version == bound.version)


def _address(text: str) -> IPv4Address | IPv6Address:
    """Parse an address of /proc/net/tcp: the kernel prints each four bytes as a number in host byte order."""
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
        except OSError:  # no permission, or the process has ended
            continue
    return ""
