"""A hundred targets with ten local forwards each: the time until all are up, and the memory.

This program is one process. Its peer is an `ssh -L` process for each target; ten run, and the total is extrapolated.
The goal is an RSS below 97 MB. PSS counts shared pages once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from bench import _peers
from support.services import EchoServer
from support.sshd import Sshd
from support.wait import eventually, free_port

TARGETS, EACH, SAMPLE = 100, 10, 10
MB = 1e6


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with Sshd(path) as sshd, EchoServer() as echo:
            await _ours(sshd, echo.port, path)
            await _theirs(sshd, echo.port)


async def _ours(sshd: Sshd, to: int, path: Path) -> None:
    login = {"port": sshd.port, "user": sshd.user, "privateKey": sshd.client_key, "knownHosts": sshd.known_hosts}
    lines = ["defaults:\n  target:\n", *(f"    {key}: {value}\n" for key, value in login.items()), "targets:\n"]
    for target in range(TARGETS):
        forwards = ", ".join(f'{{local: "{free_port()}:127.0.0.1:{to}"}}' for _ in range(EACH))
        lines.append(f"  t{target}:\n    host: {sshd.host}\n    tunnels: [{forwards}]\n")
    file = path / "tunnels.yaml"
    file.write_text("".join(lines))
    web = free_port()
    began = _peers.clock()
    command = [sys.executable, "-m", "reconciler", "run", file, "--listen", f"127.0.0.1:{web}", "--control", "none"]
    async with _peers.process(*command) as process:
        await eventually(lambda: _ready(web), within=60, every=0.02)
        took = _peers.clock() - began
        (rss, pss), cpu = _memory([process.pid]), _cpu(process.pid)
        print(
            f"    ours: 1 process, {TARGETS} connections, {TARGETS * EACH} forwards: all up after {took:.1f} s "
            f"({cpu:.1f} s of CPU), RSS {rss:.0f} MB, PSS {pss:.0f} MB"
        )


async def _theirs(sshd: Sshd, to: int) -> None:
    factor = TARGETS // SAMPLE
    began = _peers.clock()
    async with contextlib.AsyncExitStack() as stack:
        options = ["-N", "-F", "none", "-o", f"UserKnownHostsFile={sshd.known_hosts}", "-i", str(sshd.client_key)]
        pids = []
        ports = [[free_port() for _ in range(EACH)] for _ in range(SAMPLE)]
        for mine in ports:
            forwards = [word for port in mine for word in ("-L", f"{port}:127.0.0.1:{to}")]
            command = ["ssh", *options, *forwards, "-p", str(sshd.port), f"{sshd.user}@{sshd.host}"]
            pids.append((await stack.enter_async_context(_peers.process(*command))).pid)
        for mine in ports:
            await _peers.until_open(mine[-1])
        took = _peers.clock() - began
        rss, pss = _memory(pids)
    print(
        f"     ssh: {SAMPLE} processes all up after {took:.1f} s; extrapolated to {TARGETS}: {took * factor:.1f} s, "
        f"RSS {rss * factor:.0f} MB, PSS {pss * factor:.0f} MB"
    )


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return b" 200 " in await reader.readline()
    finally:
        writer.transport.abort()


def _memory(pids: list[int]) -> tuple[float, float]:
    """Return the RSS and PSS of these processes, in MB."""
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0])
            elif name == "Pss":
                pss += int(value.split()[0])
    return rss * 1024 / MB, pss * 1024 / MB


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
