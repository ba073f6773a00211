"""Memory of a forwarder with one tunnel: idle, for each idle client, and with clients that do not read their data."""

from __future__ import annotations

import contextlib
import resource

from bench import traffic
from bench.figures import Key
from bench.forwarders import AES128_GCM, Kind, Login, Running, forwarder
from bench.lab import Lab, forwards_of
from support.wait import eventually

NAME = "memory"
IDLE_CLIENTS = (1_000, 5_000, 10_000)  # as far as the limit of open files allows: this program leaves a share free
SLOW_READERS = 200


async def measure(lab: Lab) -> None:
    cases = {0: "1 tunnel, no client", SLOW_READERS: f"{SLOW_READERS} slow readers"}
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    idle = [clients for clients in IDLE_CLIENTS[: 1 if lab.quick else None] if 3 * clients < files]
    async with lab.server() as (sshd, to):
        for _ in range(1 if lab.quick else min(lab.rounds, 3)):  # it hardly varies
            for program in lab.programs:
                for clients, case in cases.items():
                    _, with_clients = await _grown(lab, program, Login(sshd, AES128_GCM), to, clients, reading=True)
                    lab.record(Key(NAME, case, "MB RSS", program), with_clients)
                for clients in idle:
                    before, after = await _grown(lab, program, Login(sshd, AES128_GCM), to, clients, reading=False)
                    key = Key("memory of a client", f"{clients:,} idle clients", "kB RSS each", program)
                    lab.record(key, (after - before) / clients * 1000)


async def _grown(lab: Lab, program: str, login: Login, to: int, clients: int, *, reading: bool) -> tuple[float, float]:
    """Return the memory of a new process in MB, before and with this many clients."""
    forwards = forwards_of([Kind.LOCAL], to)
    async with forwarder(program, login, [forwards], lab.directory) as running:
        before = await settled(running)
        held = traffic.held(forwards[0], clients, reading=reading) if clients else contextlib.nullcontext()
        async with held:
            return before, await settled(running)


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
