"""Memory of a forwarder with one link: idle, with idle clients, and with clients that read no data.

The budget bounds what this program holds of the data that a link received. The others have no such figure.
"""

from __future__ import annotations

import contextlib
import resource

from bench import traffic
from bench.figures import OURS, Key
from bench.forwarders import AES128_GCM, MB, Kind, Login, Running, forwarder
from bench.lab import Lab, forwards_of
from reconciler.ssh.channels.window import WindowBudget
from support.wait import eventually

NAME = "memory"
IDLE_CLIENTS = (1_000, 5_000, 10_000)  # as far as the limit of open files allows
TUNNELS = 2  # for the idle clients: one tunnel may not have as many clients as a link
SLOW_READERS = (200, 2_000)
BUDGET = f"{WindowBudget().total / MB:,.0f} MB budget"


async def measure(lab: Lab) -> None:
    slow = SLOW_READERS[: 1 if lab.quick else None]
    cases = {0: "1 tunnel, no client"} | {clients: f"{clients:,} slow readers, {BUDGET}" for clients in slow}
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    idle = [clients for clients in IDLE_CLIENTS[: 1 if lab.quick else None] if 2 * clients <= files]
    async with lab.server() as (sshd, to):
        for _ in range(1 if lab.quick else min(lab.rounds, 3)):  # it hardly varies
            for program in lab.programs:
                for clients, case in cases.items():
                    if clients > SLOW_READERS[0] and program != OURS:
                        continue  # ssh holds 2 MB for each: 4 GB, which take minutes
                    [forward] = forwards = forwards_of([Kind.LOCAL], to)
                    async with forwarder(program, Login(sshd, AES128_GCM), [forwards], lab.directory) as running:
                        held = traffic.held(forward, clients, reading=True) if clients else contextlib.nullcontext()
                        async with held:
                            lab.record(Key(NAME, case, "MB RSS", program), await settled(running))
                for clients in idle:
                    await _idle(lab, program, Login(sshd, AES128_GCM), to, clients)


async def _idle(lab: Lab, program: str, login: Login, to: int, clients: int) -> None:
    forwards = forwards_of([Kind.LOCAL] * TUNNELS, to)
    async with forwarder(program, login, [forwards], lab.directory) as running, contextlib.AsyncExitStack() as stack:
        before = await settled(running)
        for forward in forwards:
            await stack.enter_async_context(traffic.held(forward, clients // TUNNELS, reading=False))
        after = await settled(running)
    case = f"{clients:,} idle clients"
    lab.record(Key("memory of a client", case, "kB RSS each", program), (after - before) / clients * 1000)
    lab.record(Key(NAME, case, "MB RSS", program), after)


async def settled(running: Running) -> float:
    """Return the RSS in MB when the processes have done next to nothing, and it has not grown, for thirty looks.

    The kernel's buffers take the first data of a client that does not read: the RSS grows only after that.
    """
    last, spent, looks = 0.0, 0.0, 0

    def still() -> bool:
        nonlocal last, spent, looks
        now, cpu = running.memory().rss, running.cpu_seconds()
        looks = looks + 1 if now < last + 0.25 and cpu < spent + 0.02 else 0
        last, spent = now, cpu
        return looks == 30

    await eventually(still, within=120, every=0.1)
    return last
