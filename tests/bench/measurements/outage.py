"""A server that is absent for 3 s, and a killed session, with four polling clients: time to the first success.

Only of the programs that connect again by themselves. The time begins with the server's start, or with the kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from bench.figures import Key
from bench.forwarders import Kind, Login, forwarder
from bench.lab import Lab, forwards_of
from support.services import EchoServer, exchange
from support.sshd import Sshd

NAME = "outage"
SURVIVE = ("tunnels", "autossh")
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
                        self.successes.append(time.perf_counter())
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


async def measure(lab: Lab) -> None:
    async with lab.server() as (sshd, _), EchoServer() as echo:
        for _ in range(1 if lab.quick else min(lab.rounds, 3)):
            for program in lab.programs:
                if program in SURVIVE:
                    (forward,) = forwards_of([Kind.LOCAL], echo.port)
                    async with forwarder(program, Login(sshd), [[forward]], lab.directory):
                        await _one(lab, program, forward.port, sshd)


async def _one(lab: Lab, program: str, port: int, sshd: Sshd) -> None:
    async with Polling.on(port) as polling:
        await polling.first_after(time.perf_counter())
        for _ in range(KILLS):
            killed = time.perf_counter()
            await sshd.kill_sessions()
            dead = time.perf_counter()
            lab.record(Key(NAME, "session killed", "s", program), await polling.first_after(dead) + dead - killed)
        before = polling.refused
        await sshd.stop()
        await asyncio.sleep(GONE)
        back = time.perf_counter()
        await sshd.start()
        lab.record(Key(NAME, f"server absent for {GONE:g} s", "s", program), await polling.first_after(back))
        lab.record(
            Key("refused clients", f"server absent for {GONE:g} s", "clients", program), polling.refused - before
        )
