"""An SSH server that misbehaves: valid and invalid packets, before the login and after, chosen by a seed.

Run as a process: `python ssh_server.py PORT SEED HOST_KEY CLIENT_PUBLIC_KEY [ATTACK]`. Each connection gets one attack,
chosen by the seed and the connection's number, or the named one. For each it prints a line, `number attack`, so that a
failure can be repeated. It accepts every login, so that attacks reach the later stages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.packet import String

sys.path.insert(0, str(Path(__file__).parents[1]))  # this file runs as a script

from fuzz.ssh_attacks import AFTER_LOGIN, ALL, BEFORE_LOGIN, IGNORE, Attack, never_answers, no_ssh

ECHO_PORT = 7


class Session(asyncssh.SSHServer):
    """One connection: accepts every login and remote forward, and runs its attack during or after the login."""

    def __init__(self, attack: Attack, rng: random.Random) -> None:
        self._attack, self._rng = attack, rng
        self.connection: Any
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        send = conn.send_packet
        conn.send_packet = lambda kind, *args, handler=None: (  # type: ignore[method-assign]
            send(kind, *args, handler=handler) if kind != IGNORE or args != (String(b""),) else None
        )

    def begin_auth(self, username: str) -> bool:
        if self._attack in BEFORE_LOGIN:
            self._start()
        return True

    def password_auth_supported(self) -> bool:
        return True

    def auth_completed(self) -> None:
        if self._attack in AFTER_LOGIN:
            self._start()

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return True

    def connection_requested(self, _host: str, port: int, *_: object) -> Any:
        if self._attack is never_answers:
            return self._never()
        return Echo() if port == ECHO_PORT else True  # True: connect, as a jump host does

    async def _never(self) -> None:
        await asyncio.sleep(60)

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # Most attacks end with a closed connection, so asyncssh's exceptions do not matter.
        with contextlib.suppress(Exception):
            await self._attack(self.connection, self._rng)
            await asyncio.sleep(self._rng.choice((0.0, 0.1)))
        self.connection.abort()


class Echo(asyncssh.SSHTCPSession[bytes]):
    """A destination that answers, so that channels exist for the attacks."""

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan

    def data_received(self, data: bytes, datatype: object) -> None:
        self._chan.write(data)

    def eof_received(self) -> bool:
        return True


class Server:
    """Accepts connections and starts an attack on each."""

    def __init__(self, seed: int, host_key: Path, client_key: Path, only: str) -> None:
        self._seed = seed
        self._numbers: Iterator[int] = iter(range(1 << 62))
        self._host_key = asyncssh.read_private_key(host_key)
        self._client_key = asyncssh.import_authorized_keys(client_key.read_text())
        self._attacks = [attack for attack in ALL if attack.__name__ == only] if only else ALL

    async def accept(self, listener: socket.socket) -> None:
        tasks = set()
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            tasks.add(task := asyncio.create_task(self._serve(sock)))
            task.add_done_callback(tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        count = next(self._numbers)
        rng = random.Random(f"{self._seed} {count}")
        attack = rng.choice(self._attacks)
        print(count, attack.__name__, flush=True)
        if attack is no_ssh:
            await no_ssh(sock, rng)
            return
        with contextlib.suppress(Exception):  # the client's reactions to the attack
            connection = await asyncssh.run_server(
                sock,
                server_factory=lambda: Session(attack, rng),
                server_host_keys=[self._host_key],
                authorized_client_keys=self._client_key,
                compression_algs=["zlib@openssh.com", "none"],
                login_timeout=20,
            )
            await connection.wait_closed()


async def main(port: str, seed: str, host_key: str, client_key: str, only: str = "") -> None:
    server = Server(int(seed), Path(host_key), Path(client_key), only)
    with socket.create_server(("127.0.0.1", int(port)), backlog=1024) as listener:
        listener.setblocking(False)
        await server.accept(listener)


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # asyncio warns of each write to a closed connection
    asyncio.run(main(*sys.argv[1:]))
