"""A bastion with an outage of 3 s, and a killed session: four polling clients, with this program and with autossh.

Prints how many attempts were refused, and the seconds from the server's start (or the kill) to the first success. The
goals are 0 refused, 0.5 s and 0.3 s. Without autossh (a Debian package) only this program is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from bench import _peers
from support.processes import kill_trees
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.wait import free_port

POLLERS, GONE, KILLS = 4, 3.0, 3


class Polling:
    """Clients that connect repeatedly."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.refused = 0
        self.successes = list[float]()

    async def _poll(self) -> None:
        while True:
            try:
                async with asyncio.timeout(20):
                    if await exchange("127.0.0.1", self._port) == b"ping":
                        self.successes.append(_peers.clock())
            except ConnectionRefusedError:
                self.refused += 1
            except OSError:  # the exchange was in progress when the server was killed
                pass
            await asyncio.sleep(0.01)

    async def first_after(self, moment: float) -> float:
        """Return the seconds from this moment to the first success."""
        async with asyncio.timeout(60):
            while True:
                if after := [one for one in self.successes if one > moment]:
                    return after[0] - moment
                await asyncio.sleep(0.005)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, port: int) -> AsyncIterator[Polling]:
        polling = cls(port)
        tasks = [asyncio.create_task(polling._poll()) for _ in range(POLLERS)]
        try:
            yield polling
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def autossh(sshd: Sshd, to: int) -> AsyncIterator[int]:
    """Run autossh in its usual setup: no monitor port, ssh's own keepalive, no wait before the first start."""
    port = free_port()
    options = ["-o", f"UserKnownHostsFile={sshd.known_hosts}", "-o", "ExitOnForwardFailure=yes"]
    options += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=2"]
    command = ["autossh", "-M", "0", "-N", "-F", "none", *options, "-i", str(sshd.client_key), "-p", str(sshd.port)]
    command += ["-L", f"{port}:127.0.0.1:{to}", f"{sshd.user}@{sshd.host}"]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.DEVNULL, env=os.environ | {"AUTOSSH_GATETIME": "0"}
    )
    try:
        await _peers.until_open(port)
        yield port
    finally:
        await kill_trees([process.pid])
        await process.wait()


async def _measure(what: str, port: int, sshd: Sshd) -> None:
    async with Polling.on(port) as polling:
        await polling.first_after(_peers.clock())
        kills = []
        for _ in range(KILLS):
            killed = _peers.clock()
            await sshd.kill_sessions()
            dead = _peers.clock()
            kills.append(await polling.first_after(dead) + dead - killed)
            await asyncio.sleep(0.5)
        before = polling.refused
        await sshd.stop()
        await asyncio.sleep(GONE)
        back = _peers.clock()
        await sshd.start()
        first = await polling.first_after(back)
        refused = polling.refused - before
    again = ", ".join(f"{one:.2f}" for one in kills)
    print(
        f"{what:>8}: gone for {GONE:g} s: {refused} refused, first success {first:.2f} s after; "
        f"session killed: {again} s"
    )


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with Sshd(path) as sshd, EchoServer() as echo:
            async with _peers.ours(sshd, echo.port, path) as port:
                await _measure("ours", port, sshd)
            if shutil.which("autossh") is None:
                print("autossh is not installed: install it to compare (apt-get install autossh)")
                return
            async with autossh(sshd, echo.port) as port:
                await _measure("autossh", port, sshd)
