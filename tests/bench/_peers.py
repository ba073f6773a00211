"""Shared parts of the benchmarks: the program and `ssh -L` as processes, and clients that move bytes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from support.sshd import Sshd
from support.wait import eventually, free_port

MIB = 1 << 20

# The destination and the client are separate processes, so that they do not share an interpreter lock.
_SERVICE = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
block = bytes(range(256)) * 4096
def serve(client):
    with client:
        count = int(client.recv(32).strip() or b"0")  # positive: that many MiB to the client; 0: swallow
        if count:
            for _ in range(count):
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)
            return
        client.sendall(b"go")
        total, room = 0, bytearray(1 << 20)
        while got := client.recv_into(room):
            total += got
        client.sendall(str(total).encode())
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

_CLIENT = """
import socket, sys, time
port, way, mib = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with socket.create_connection(("127.0.0.1", port)) as server:
    if way == "down":
        server.sendall(str(mib).encode())
        began, total, room = time.perf_counter(), 0, bytearray(1 << 20)
        while got := server.recv_into(room):
            total += got
    else:
        server.sendall(b"0")
        assert server.recv(2) == b"go"
        block = bytes(1 << 20)
        began = time.perf_counter()
        for _ in range(mib):
            server.sendall(block)
        server.shutdown(socket.SHUT_WR)
        total = int(server.recv(32))
    assert total == mib << 20, total
    print((total >> 20) / (time.perf_counter() - began))
"""


@contextlib.asynccontextmanager
async def process(*command: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process. Kill it at the end of the block."""
    started = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.communicate()


@contextlib.asynccontextmanager
async def service() -> AsyncIterator[int]:
    """Run the destination and yield its port."""
    port = free_port()
    async with process(sys.executable, "-c", _SERVICE, port):
        yield port


@contextlib.asynccontextmanager
async def ours(sshd: Sshd, to: int, directory: Path, **target: object) -> AsyncIterator[int]:
    """Run `tunnels run` with one local forward and yield its port."""
    port = free_port()
    fields = {"host": sshd.host, "port": sshd.port, "user": sshd.user, "privateKey": sshd.client_key, **target}
    lines = "".join(f"    {key}: {value}\n" for key, value in {**fields, "knownHosts": sshd.known_hosts}.items())
    text = f'targets:\n  bench:\n{lines}    tunnels: [{{local: "{port}:127.0.0.1:{to}", maxConnections: 0}}]\n'
    file = directory / "tunnels.yaml"
    file.write_text(text)
    async with process(sys.executable, "-m", "reconciler", "run", file):
        await until_open(port)
        yield port


@contextlib.asynccontextmanager
async def ssh(sshd: Sshd, to: int, *options: str) -> AsyncIterator[int]:
    """Run `ssh -L` and yield its port."""
    port = free_port()
    login = f"{sshd.user}@{sshd.host}"
    known = f"UserKnownHostsFile={sshd.known_hosts}"
    forward = f"{port}:127.0.0.1:{to}"
    command = ["ssh", "-N", "-F", "none", "-o", known, "-i", sshd.client_key, "-p", sshd.port, "-L", forward]
    async with process(*command, *options, login):
        await until_open(port)
        yield port


async def until_open(port: int) -> None:
    """Wait until a process listens on the port."""

    async def connects() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    await eventually(connects, within=20)


async def move(port: int, way: str, mib: int) -> float:
    """Move `mib` MiB `up` or `down` on one connection. Return MiB/s."""
    async with process(sys.executable, "-c", _CLIENT, port, way, mib) as client:
        out, _ = await client.communicate()
        return float(out)


def clock() -> float:
    return time.perf_counter()
