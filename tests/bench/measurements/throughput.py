"""Throughput, and CPU seconds of the forwarder for each GB, over loopback: kind, direction, streams and cipher."""

from __future__ import annotations

import contextlib

from bench import traffic
from bench.figures import Key
from bench.forwarders import AES128_GCM, Forward, Kind, Login, Running
from bench.lab import Lab

NAME = "throughput"
WAYS = ("down", "up", "both")
STREAMS = (1, 8)
IDLE = 8  # clients beside one stream


async def measure(lab: Lab) -> None:
    async with lab.server() as (sshd, to):
        for cipher in ("", AES128_GCM):
            kinds = [Kind.LOCAL] if cipher or lab.quick else list(Kind)
            async with lab.forwarders(Login(sshd, cipher), kinds, to) as running:
                for number, kind in enumerate(kinds):
                    for way in WAYS:
                        for streams in STREAMS if kind is Kind.LOCAL else STREAMS[:1]:
                            case = f"{kind}, {way}, {streams} stream{'s' * (streams > 1)}, {cipher or 'default cipher'}"
                            await _one_case(lab, case, [(one, one.forwards[number]) for one in running], way, streams)
                if cipher:
                    await _beside_idle_clients(lab, running, cipher)


async def _beside_idle_clients(lab: Lab, running: list[Running], cipher: str) -> None:
    async with contextlib.AsyncExitStack() as clients:
        for one in running:
            await clients.enter_async_context(traffic.held(one.forwards[0], IDLE, reading=False))
        for way in WAYS[:2]:
            case = f"{Kind.LOCAL}, {way}, 1 stream beside {IDLE} idle clients, {cipher}"
            await _one_case(lab, case, [(one, one.forwards[0]) for one in running], way, 1)


async def _one_case(lab: Lab, case: str, running: list[tuple[Running, Forward]], way: str, streams: int) -> None:
    for _, forward in running:
        await traffic.move(forward, way, 16, streams, check=True)
    for _ in range(lab.rounds):
        for one, forward in running:
            await _one(lab, case, one, forward, way, streams)


async def _one(lab: Lab, case: str, running: Running, forward: Forward, way: str, streams: int) -> None:
    mib = 64 if lab.quick else 256
    before = running.cpu_seconds()
    moved = await traffic.move(forward, way, mib, streams)
    cpu = running.cpu_seconds() - before
    gigabytes = mib * traffic.MIB * (2 if way == "both" else 1) / 1e9
    lab.record(Key(NAME, case, "MB/s", running.program, more_is_better=True), moved.rate)
    lab.record(Key("processor time", case, "CPU s/GB", running.program), cpu / gigabytes)
    if streams > 1:
        key = Key("fairness", case, "slowest/fastest stream", running.program, more_is_better=True)
        lab.record(key, moved.fairness)
