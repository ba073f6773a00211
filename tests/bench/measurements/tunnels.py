"""1, 100 and 1,000 tunnels, ten for each target: time until a tunnel of each target answers, CPU time, and memory.

ssh and autossh are a process for each target, the others one process.
"""

from __future__ import annotations

import time

from bench.figures import Key
from bench.forwarders import Kind, Login, forwarder
from bench.lab import Lab, forwards_of
from support.program import answers
from support.services import EchoServer

NAME = "many tunnels"
COUNTS = (1, 100, 1000)
EACH = 10  # tunnels of a target


async def measure(lab: Lab) -> None:
    async with lab.server() as (sshd, _), EchoServer() as echo:
        for count in COUNTS[:2] if lab.quick else COUNTS:
            kinds = [Kind.LOCAL] * min(count, EACH)
            case = f"{count:,} tunnel{'s' * (count > 1)}"
            for _ in range(1 if lab.quick else min(lab.rounds, 3)):
                for program in lab.programs:
                    targets = [forwards_of(kinds, echo.port) for _ in range(max(1, count // EACH))]
                    began = time.perf_counter()
                    async with forwarder(program, Login(sshd), targets, lab.directory, within=120) as running:
                        for target in targets:
                            await answers(target[-1].port)
                        took, cpu, memory = time.perf_counter() - began, running.cpu_seconds(), running.memory()
                    lab.record(Key("time until all answer", case, "s", program), took)
                    lab.record(Key("processor time until all answer", case, "CPU s", program), cpu)
                    lab.record(Key("memory of many tunnels", case, "MB PSS", program), memory.pss)
