"""Throughput and processor time of one direct-tcpip channel: the packet path, plain asyncssh, and `ssh -L`.

Run: `PYTHONPATH=tests python -m bench.packet_path [ROUNDS] [MIB]`. All three use the same sshd and the same cipher, in
turns. Prints MB/s and CPU seconds per GB of the client side, and the ratios to `ssh -L` in the same turn, as medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncssh

from bench import traffic
from bench.forwarders import Forward, Kind, process, until_open
from bench.lab import service
from support.path_forward import PathForward
from support.sshd import Sshd
from support.wait import free_port

CIPHERS = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")
GB = 1e9
TICK = os.sysconf("SC_CLK_TCK")

Cpu = Callable[[], float]


def main() -> None:
    arguments = [int(argument) for argument in sys.argv[1:]] if __name__ == "__main__" else []
    rounds, mib = [*arguments, 3, 256][:2] if len(arguments) != 1 else (arguments[0], 256)
    asyncio.run(_main(rounds, mib))


async def _main(rounds: int, mib: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with Sshd(Path(directory)) as sshd, service() as to:
            for cipher in CIPHERS:
                async with contextlib.AsyncExitStack() as stack:
                    peers = {
                        "path": await stack.enter_async_context(_path(sshd, to, cipher)),
                        "asyncssh": await stack.enter_async_context(_asyncssh(sshd, to, cipher)),
                        "ssh -L": await stack.enter_async_context(_ssh(sshd, to, cipher)),
                    }
                    for way in ("down", "up"):
                        await _compare(f"{cipher} {way}", peers, way, rounds, mib)


async def _compare(title: str, peers: dict[str, tuple[int, Cpu]], way: str, rounds: int, mib: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in peers}
    costs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, (port, cpu) in peers.items():
            before = cpu()
            rates[name].append((await traffic.move(Forward(Kind.LOCAL, port, 0), way, mib)).rate)
            costs[name].append((cpu() - before) / (mib * traffic.MIB / GB))
    print(title)
    for name in peers:
        ratio = statistics.median(mine / ssh for mine, ssh in zip(rates[name], rates["ssh -L"], strict=True))
        rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
        print(f"  {name:<9} {rate:5.0f} MB/s  {cost:5.2f} CPU s/GB  ratio {ratio:.2f}")


@contextlib.asynccontextmanager
async def _login(sshd: Sshd, cipher: str) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with asyncssh.connect(
        sshd.host,
        sshd.port,
        username=sshd.user,
        client_keys=[str(sshd.client_key)],
        known_hosts=str(sshd.known_hosts),
        config=None,
        encryption_algs=[cipher],
    ) as connection:
        yield connection


@contextlib.asynccontextmanager
async def _path(sshd: Sshd, to: int, cipher: str) -> AsyncIterator[tuple[int, Cpu]]:
    async with _login(sshd, cipher) as connection:
        forward = PathForward(connection, to)
        assert not forward.path.is_plain
        async with forward.listening() as port:
            yield port, time.process_time


@contextlib.asynccontextmanager
async def _asyncssh(sshd: Sshd, to: int, cipher: str) -> AsyncIterator[tuple[int, Cpu]]:
    async with _login(sshd, cipher) as connection:
        listener = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", to)
        try:
            yield listener.get_port(), time.process_time
        finally:
            listener.close()


@contextlib.asynccontextmanager
async def _ssh(sshd: Sshd, to: int, cipher: str) -> AsyncIterator[tuple[int, Cpu]]:
    port = free_port()
    known = f"UserKnownHostsFile={sshd.known_hosts}"
    options = ["-N", "-F", "none", "-o", known, "-i", str(sshd.client_key), "-p", str(sshd.port), "-c", cipher]
    login = f"{sshd.user}@{sshd.host}"
    async with process(["ssh", *options, "-L", f"{port}:127.0.0.1:{to}", login]) as started:
        await until_open(port)
        yield port, lambda: _cpu_of(started.pid)


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    main()
