"""The demo's servers: a web service, an SSH server in front of it, keys, and the tunnels.yaml to edit.

Input: an empty directory. Output: `World` with the ports and the path of tunnels.yaml. Everything listens on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncssh

USER = "demo"

TEMPLATE = """\
# The tunnels of the demo. Save a change and watch the other terminal.
targets:
  demo:                          # an SSH server; this one runs inside the demo
    host: 127.0.0.1
    port: {ssh_port}
    user: {user}
    privateKey: {key}
    hostKeys: ["{host_key}"]
    tunnels:
      - name: web
        type: local
        localPort: {local_port}         # change this port and save: the tunnel moves
        remotePort: {web_port}        # the web service, on localhost of the SSH server
        description: A web service that only the SSH server can reach

      # Uncomment these four lines and save: a second tunnel opens, the first one is not affected.
      # - name: second
      #   type: local
      #   localPort: {second_port}
      #   remotePort: {web_port}
"""


@dataclass(frozen=True, slots=True)
class World:
    """Ports and files of the demo. `moved_port` is free: the demo suggests to move the tunnel there."""

    file: Path
    local_port: int
    moved_port: int
    ssh_port: int


@contextlib.asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """Run the servers until the block is left."""
    web = await asyncio.start_server(_answer, "127.0.0.1", 0)
    key, host_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    key_file = directory / "id_ed25519"
    key.write_private_key(key_file)
    key_file.chmod(0o600)
    server = await asyncssh.create_server(
        lambda: _Server(key.export_public_key()), "127.0.0.1", 0, server_host_keys=[host_key]
    )
    async with web, server:
        local_port, second_port, moved_port = _free_ports(3)
        servers = World(directory / "tunnels.yaml", local_port, moved_port, server.get_port())
        servers.file.write_text(
            TEMPLATE.format(
                ssh_port=servers.ssh_port,
                user=USER,
                key=key_file,
                host_key=host_key.export_public_key().decode().strip(),
                local_port=servers.local_port,
                second_port=second_port,
                web_port=web.sockets[0].getsockname()[1],
            )
        )
        yield servers


class _Server(asyncssh.SSHServer):
    """An SSH server that accepts the demo's user and key, and forwards to loopback."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = asyncssh.import_public_key(public_key)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and key == self._public_key

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return dest_host in ("localhost", "127.0.0.1")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one HTTP request with a greeting."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await reader.readuntil(b"\r\n\r\n")
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        body = f"Hello through the tunnel, at {now}.\n".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
    writer.close()


def _free_ports(count: int) -> list[int]:
    """Return distinct free ports: all are held until the last one is found."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
