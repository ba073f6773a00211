"""Repeated clients, edits and server restarts: memory, descriptors and tasks do not grow.

The suite runs this for 20 seconds. `make soak` runs it for ten minutes (SOAK_SECONDS) and draws the samples (SOAK_SVG).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.services import EchoServer, by_tcp, by_unix, connected
from support.socks_client import by_socks
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, socks
from support.wait import eventually, fd_count, free_port, rss_bytes

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
CLIENTS = 8
ROUND = 1.0  # seconds of load between two samples; samples are taken when no client is connected
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The resources in use while no client is connected."""

    at: float
    memory: float  # MiB
    descriptors: int
    tasks: int


class Soak:
    """The load on one running program."""

    def __init__(self, sshd: Sshd, echo: EchoServer, directory: Path) -> None:
        self._sshd = sshd
        self._echo = echo
        self._path = directory / "soak.sock"
        self._ports = {name: free_port() for name in ("steady", "remote", "proxy", "coming", "going")}
        self._moving_ports = itertools.cycle([free_port(), free_port()])
        self.clients = 0
        self.answered, self.refused = Counter[str](), Counter[str]()  # by tunnel
        self.samples = list[Sample]()

    def text(self, turn: int = 0) -> str:
        """Return the file of one turn: a tunnel comes or goes, another one moves, cipher and limits change."""
        to, ports = self._echo.port, self._ports
        lines = [
            local("steady", ports["steady"], to, holdTimeout="20s", maxConnections=100 + turn % 2),
            f"      - {{name: unix, type: local, localSocket: {self._path}, remotePort: {to}, holdTimeout: 20s}}\n",
            remote("remote", ports["remote"], to),
            socks("proxy", ports["proxy"], holdTimeout="20s"),
            local("moving", next(self._moving_ports), to, drainTimeout="100ms"),
        ]
        if turn % 3:
            lines.append(local("coming", ports["coming"], to, drainTimeout="100ms"))
        cipher = ("aes128-gcm@openssh.com", "aes256-ctr")[turn // 4 % 2]
        return file(self._sshd, *lines, algorithms=f"{{cipher: [{cipher}]}}", reconnect="{max: 500ms}")

    async def run(self, tunnels: Running) -> None:
        began = time.monotonic()
        for turn in itertools.count(1):
            await self._round(tunnels, turn)
            tunnels.changes.clear()
            gc.collect()
            now = time.monotonic() - began
            self.samples.append(Sample(now, rss_bytes() / MIB, fd_count(), len(asyncio.all_tasks())))
            if now > SECONDS:
                return

    async def _round(self, tunnels: Running, turn: int) -> None:
        stop = asyncio.Event()
        clients = [asyncio.create_task(self._come_and_go(stop, number)) for number in range(CLIENTS)]
        await asyncio.sleep(ROUND / 3)
        tunnels.edit(self.text(turn))
        await asyncio.sleep(ROUND / 3)
        if turn % 3 == 0:
            await (self._sshd.restart() if turn % 2 else self._sshd.kill_sessions())
        await asyncio.sleep(ROUND / 3)
        stop.set()
        await asyncio.gather(*clients)
        await tunnels.all_up()
        await tunnels.no_client_is_connected()
        await eventually(lambda: len(tunnels.links) == 1, message="the connections of earlier files are gone")

    async def _come_and_go(self, stop: asyncio.Event, number: int) -> None:
        dice = random.Random(number)
        ports = self._ports
        ways = [
            ("steady", by_tcp, ports["steady"]),
            ("unix", by_unix(self._path), 0),
            ("remote", by_tcp, ports["remote"]),
            ("proxy", by_socks(ports["proxy"]), self._echo.port),
            ("coming", by_tcp, ports["coming"]),
        ]
        while not stop.is_set():
            way, opening, port = dice.choice(ways)
            block = dice.randbytes(dice.randint(1, 200_000))
            self.clients += 1
            try:
                async with connected("127.0.0.1", port, opening) as (reader, writer):
                    writer.write(block)
                    if dice.random() < 0.2:
                        raise ConnectionResetError  # leaves in the middle of the exchange
                    async with asyncio.timeout(60):
                        assert await reader.readexactly(len(block)) == block
                self.answered[way] += 1
            except TimeoutError:
                raise  # TimeoutError is an OSError, but no client may wait that long
            except (OSError, asyncio.IncompleteReadError) as error:
                self.refused[way] += isinstance(error, ConnectionRefusedError)
                await asyncio.sleep(0.01)


def svg(samples: list[Sample]) -> str:
    """Return a drawing of memory, descriptors and tasks over time, with the first, the middle and the last figure."""
    parts = []
    for row, figure in enumerate(("memory", "descriptors", "tasks")):
        values = [float(getattr(one, figure)) for one in samples]
        starts, middle, ends = values[0], values[len(values) // 2], values[-1]
        top = max(values) * 1.1
        points = " ".join(
            f"{40 + 740 * one.at / samples[-1].at:.1f},{150 + 170 * row - 130 * value / top:.1f}"
            for one, value in zip(samples, values, strict=True)
        )
        parts.append(
            f'<text x="40" y="{15 + 170 * row}">{figure}: {starts:.0f}, {middle:.0f}, {ends:.0f}</text>'
            f'<line x1="40" x2="780" y1="{150 + 170 * row}" y2="{150 + 170 * row}" stroke="#bbb"/>'
            f'<polyline fill="none" stroke="#06c" points="{points}"/>'
        )
    body = "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="520" font-family="sans-serif">{body}</svg>\n'


@pytest.mark.timeout(SECONDS * 2 + 120)
async def test_memory_descriptors_and_tasks_do_not_grow(
    echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test itself must not grow: pytest keeps log records, and each start of sshd reads its whole log.
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    async with Sshd(tmp_path / "sshd", options={"LogLevel": "INFO"}) as sshd:
        soak = Soak(sshd, echo, tmp_path)
        async with running(tmp_path, soak.text()) as tunnels:
            await tunnels.all_up()
            await soak.run(tunnels)
    samples = soak.samples
    if picture := os.environ.get("SOAK_SVG"):
        Path(picture).write_text(svg(samples))
    assert soak.answered.keys() == {"steady", "unix", "remote", "proxy", "coming"}, soak.answered
    assert sum(soak.answered.values()) > soak.clients / 2, (
        "a fifth of the clients leave early, and a restart cuts live clients"
    )
    assert not {"steady", "unix", "proxy"} & {way for way, times in soak.refused.items() if times}, soak.refused
    warm = samples[len(samples) // 3]
    assert samples[-1].descriptors <= warm.descriptors + 2
    assert samples[-1].tasks <= warm.tasks + 2
    assert samples[-1].memory <= warm.memory + 16
