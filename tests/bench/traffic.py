"""Starts the client process of the benchmarks and returns what it measured."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.forwarders import Forward, process

CLIENT = Path(__file__).with_name("workload") / "client.py"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Moved:
    """A transfer: its rate in MB/s, and the slowest stream's rate as a fraction of the fastest one's."""

    rate: float
    fairness: float


async def move(forward: Forward, way: str, mib: int, streams: int = 1, *, check: bool = False) -> Moved:
    """Move `mib` MiB `up`, `down` or, on the same connections, `both` ways (that many each way)."""
    result = await _run("move", forward, way, mib * MIB, streams, int(check))
    total = mib * MIB * (2 if way == "both" else 1)
    return Moved(total / result["seconds"] / 1e6, min(result["each"]) / max(result["each"]))


async def round_trips(forward: Forward, seconds: float) -> list[float]:
    """Exchange single bytes on one connection. Return the times in seconds, sorted."""
    return list((await _run("ping", forward, seconds))["round_trips"])


async def connections_per_second(forward: Forward, seconds: float, at_once: int) -> float:
    return float((await _run("connect", forward, seconds, at_once))["per_second"])


@contextlib.asynccontextmanager
async def flooded(forward: Forward, way: str, streams: int) -> AsyncIterator[None]:
    """Move data without end during the block."""
    async with _until_ready("flood", forward, way, streams):
        yield


@contextlib.asynccontextmanager
async def held(forward: Forward, clients: int, *, reading: bool) -> AsyncIterator[None]:
    """Have this many clients: idle ones, or ones that ask for data without end and read a byte of it."""
    async with _until_ready("hold", forward, clients, "down" if reading else "echo"):
        yield


@contextlib.asynccontextmanager
async def _until_ready(task: str, forward: Forward, *words: object) -> AsyncIterator[None]:
    async with process(_command(task, forward, *words), quiet=False) as client:
        assert client.stdout is not None
        assert await client.stdout.readline() == b"ready\n", f"the client failed: {task} {words}"
        yield


async def _run(task: str, forward: Forward, *words: object) -> Any:
    async with process(_command(task, forward, *words), quiet=False) as client:
        out, _ = await client.communicate()
        assert client.returncode == 0, f"the client failed: {task} {words}"
        return json.loads(out)


def _command(task: str, forward: Forward, *words: object) -> list[str]:
    return [sys.executable, str(CLIENT), task, *map(str, (forward.port, forward.socks_to, *words))]
