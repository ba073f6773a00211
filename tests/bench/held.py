"""Memory of clients that are held while their target is unreachable. Each has already sent 64 KiB.

Run it with `make bench ARGS=held`. It needs about 4,100 descriptors.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

from support.keys import Keys
from support.program import Program, program
from support.wait import eventually, free_port

CLIENTS = 4_000
SENT = 65_536  # bytes
MIB = 1 << 20
HANDSHAKE = b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"


def main() -> None:
    for kind, handshake in (("socks", HANDSHAKE), ("local", b"")):
        asyncio.run(_measure(kind, handshake))


async def _measure(kind: str, handshake: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory, port, dead = Path(name), free_port(), free_port()
        key = Keys(directory).make("client")
        (directory / "known_hosts").touch()
        line = f"socks: {port}" if kind == "socks" else f'local: "{port}:127.0.0.1:80"'
        file = directory / "tunnels.yaml"
        file.write_text(
            f"targets:\n  t: {{host: 127.0.0.1, port: {dead}, user: u, privateKey: {key.private}, "
            f"knownHosts: {directory / 'known_hosts'}, tunnels: [{{{line}, holdTimeout: 10m}}]}}\n"
        )
        async with program(file) as run:
            await eventually(lambda: _connects(port))
            before = await _settled(run)
            clients = [_client(port, handshake + bytes(SENT - len(handshake))) for _ in range(CLIENTS)]
            grown = await _settled(run) - before
            print(f"{kind}: {CLIENTS} held clients: {grown / MIB:.0f} MiB, {grown / CLIENTS / 1024:.1f} KiB each")
            for client in clients:
                client.close()


def _connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _client(port: int, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    client.send(data)
    return client


async def _settled(run: Program) -> int:
    """Return the memory of the program when it has stopped growing."""
    rss, before = run.rss(), -MIB
    while rss - before > MIB / 2:
        await asyncio.sleep(2)
        rss, before = run.rss(), rss
    return rss


if __name__ == "__main__":
    main()
