"""Round trip of one byte on one connection, idle and beside saturating streams of another client on the same link."""

from __future__ import annotations

import contextlib

from bench import traffic
from bench.figures import Key
from bench.forwarders import AES128_GCM, Kind, Login, Running
from bench.lab import Lab

NAME = "round trip"
BESIDE = ("", "down", "up", "both")
STREAMS = 4


async def measure(lab: Lab) -> None:
    async with lab.server() as (sshd, to), lab.forwarders(Login(sshd, AES128_GCM), [Kind.LOCAL], to) as running:
        for way in BESIDE:
            for _ in range(lab.rounds):
                for one in running:
                    await _one(lab, one, way)


async def _one(lab: Lab, running: Running, way: str) -> None:
    (forward,) = running.forwards
    beside = traffic.flooded(forward, way, STREAMS) if way else contextlib.nullcontext()
    async with beside:
        taken = await traffic.round_trips(forward, 0.5 if lab.quick else 2.0)
    case = f"beside {STREAMS} streams {way}" if way else "idle"
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        lab.record(Key(NAME, f"{case}, {name}", "ms", running.program), taken[int(len(taken) * part)] * 1000)
