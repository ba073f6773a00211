"""Throughput of one stream over a path with a round trip of 50 and of 100 ms.

sshd and the destination run in a network namespace behind a delaying device (see `delay`). Without the right to make
one, a relay in this process delays the bytes instead, and the case says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from bench import traffic
from bench.delay import DelayedNamespace
from bench.figures import Key
from bench.forwarders import AES128_GCM, Kind, Login
from bench.lab import Lab, service
from support.faults import TcpProxy
from support.netns import SshdThere

NAME = "long path"
ROUND_TRIPS = (0.05, 0.1)  # seconds


async def measure(lab: Lab) -> None:
    for round_trip in ROUND_TRIPS:
        async with (
            _far_server(lab, round_trip) as (login, to, how),
            lab.forwarders(login, [Kind.LOCAL], to) as running,
        ):
            for way in ("down", "up"):
                case = f"{round_trip * 1000:g} ms, {way}{how}"
                for one in running:
                    await traffic.move(one.forwards[0], way, 4, check=True)
                for _ in range(lab.rounds):
                    for one in running:
                        moved = await traffic.move(one.forwards[0], way, 16 if lab.quick else 128)
                        lab.record(Key(NAME, case, "MB/s", one.program, more_is_better=True), moved.rate)


@contextlib.asynccontextmanager
async def _far_server(lab: Lab, round_trip: float) -> AsyncIterator[tuple[Login, int, str]]:
    """Yield a login over the path, the port of the destination there, and what to add to the case."""
    if DelayedNamespace.possible():
        with DelayedNamespace(round_trip / 2) as namespace:
            inside = ["ip", "netns", "exec", namespace.name]
            async with SshdThere(lab.directory / f"far-{round_trip}", namespace) as there, service(inside) as to:
                yield Login(there, AES128_GCM), to, ""
        return
    async with lab.server() as (sshd, to), TcpProxy(sshd.host, sshd.port, latency=round_trip / 2) as relay:
        yield Login(sshd, AES128_GCM, via=relay.port), to, " (delayed by a relay)"
