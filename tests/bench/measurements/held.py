"""Memory of clients that are held while their target is unreachable. Each has already sent 64 KiB."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

from bench.figures import OURS, Key
from bench.forwarders import Running, process, until_open
from bench.lab import Lab
from bench.measurements.memory import settled
from support.keys import Keys
from support.wait import free_port

NAME = "memory of a held client"
CLIENTS = 4_000
SENT = 65_536  # bytes
SOCKS_CONNECT = b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"


async def measure(lab: Lab) -> None:
    for kind, first in (("socks", SOCKS_CONNECT), ("local", b"")):
        await _one(lab, kind, first + bytes(SENT - len(first)), 200 if lab.quick else CLIENTS)


async def _one(lab: Lab, kind: str, data: bytes, count: int) -> None:
    directory, port = lab.directory / f"held-{kind}", free_port()
    directory.mkdir()
    (directory / "known_hosts").touch()
    line = f"socks: {port}" if kind == "socks" else f'local: "{port}:127.0.0.1:80"'
    login = f"user: u, privateKey: {Keys(directory).make('client').private}, knownHosts: {directory / 'known_hosts'}"
    file = directory / "tunnels.yaml"
    file.write_text(
        f"targets:\n  t: {{host: 127.0.0.1, port: {free_port()}, {login}, "
        f"tunnels: [{{{line}, holdTimeout: 10m, maxConnections: 0}}]}}\n"
    )
    run = [sys.executable, "-m", "reconciler", "run", str(file), "--listen", "none", "--control", "none"]
    async with process(run) as started:
        await until_open(port)
        running = Running(OURS, (started.pid,))
        before = await settled(running)
        with _clients(port, data, count):
            grown = await settled(running) - before
        lab.record(Key(NAME, f"{kind}, {count:,} clients with 64 KiB each", "kB RSS each", OURS), grown / count * 1000)


@contextlib.contextmanager
def _clients(port: int, data: bytes, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.setblocking(False)
            client.send(data)
        yield
