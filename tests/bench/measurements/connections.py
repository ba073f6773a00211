"""Connections in a second: connect, one byte there and back, close."""

from __future__ import annotations

from bench import traffic
from bench.figures import Key
from bench.forwarders import AES128_GCM, Kind, Login
from bench.lab import Lab

NAME = "connections"
AT_ONCE = (1, 16)


async def measure(lab: Lab) -> None:
    kinds = [Kind.LOCAL] if lab.quick else list(Kind)
    seconds = 0.5 if lab.quick else 2.0
    async with lab.server() as (sshd, to), lab.forwarders(Login(sshd, AES128_GCM), kinds, to) as running:
        for number, kind in enumerate(kinds):
            for at_once in AT_ONCE:
                for _ in range(lab.rounds):
                    for one in running:
                        rate = await traffic.connections_per_second(one.forwards[number], seconds, at_once)
                        key = Key(NAME, f"{kind}, {at_once} at once", "connections/s", one.program, more_is_better=True)
                        lab.record(key, rate)
