"""Memory of a forwarder with one tunnel: idle, for each idle client, and with clients that do not read their data."""

from __future__ import annotations

from bench import traffic
from bench.figures import Key
from bench.forwarders import AES128_GCM, Kind, Login, Running, forwarder
from bench.lab import Lab, forwards_of
from support.wait import eventually

NAME = "memory"
SLOW_READERS = 200


async def measure(lab: Lab) -> None:
    clients = 100 if lab.quick else 2000
    async with lab.server() as (sshd, to):
        for _ in range(1 if lab.quick else min(lab.rounds, 3)):  # it hardly varies
            for program in lab.programs:
                forwards = forwards_of([Kind.LOCAL], to)
                async with forwarder(program, Login(sshd, AES128_GCM), [forwards], lab.directory) as running:
                    await _one(lab, running, clients)


async def _one(lab: Lab, running: Running, clients: int) -> None:
    (forward,) = running.forwards
    idle = await settled(running)
    lab.record(Key(NAME, "1 tunnel, no client", "MB RSS", running.program), idle)
    async with traffic.held(forward, clients, reading=False):
        grown = await settled(running) - idle
    lab.record(
        Key("memory of a client", f"{clients:,} idle clients", "kB RSS each", running.program), grown / clients * 1000
    )
    async with traffic.held(forward, SLOW_READERS, reading=True):
        with_readers = await settled(running)
    lab.record(Key(NAME, f"{SLOW_READERS} slow readers", "MB RSS", running.program), with_readers)


async def settled(running: Running) -> float:
    """Return the RSS in MB when it has not grown for ten looks."""
    last, looks = 0.0, 0

    def still() -> bool:
        nonlocal last, looks
        now = running.memory().rss
        last, looks = now, looks + 1 if now < last + 0.25 else 0
        return looks == 10

    await eventually(still, within=120, every=0.1)
    return last
