"""Time of `tunnels status` as a process, with 1,000 tunnels in the response. Most of it is start-up."""

from __future__ import annotations

import sys
import time

from bench.figures import OURS, Key
from bench.forwarders import process
from bench.lab import Lab
from reconciler.cli.client import Control, NotRunningError
from support.wait import eventually

NAME = "status"
TUNNELS, TARGETS, ROUNDS = 1000, 100, 5


def config() -> str:
    """Return a file of unreachable targets: only the status command is measured."""
    made = ["targets:\n"]
    for number in range(TARGETS):
        made.append(f"  t{number}: {{host: 127.0.0.1, port: 1, user: u, agent: true, connect: onDemand, tunnels: [")
        made += [f"{{name: n{one}, type: local, localPort: 0, remotePort: 1}}," for one in range(TUNNELS // TARGETS)]
        made.append("]}\n")
    return "".join(made)


async def measure(lab: Lab) -> None:
    file, control = lab.directory / "status.yaml", str(lab.directory / "control.sock")
    file.write_text(config())
    run = [sys.executable, "-m", "reconciler", "run", "--listen", "none", "--log-level", "error"]
    async with process([*run, "--control", control, str(file)]):
        await eventually(lambda: is_listening(control), within=60, every=0.1)
        await _status(lab, control)


def is_listening(control: str) -> bool:
    """Return True if all tunnels listen."""
    try:
        tunnels = Control(control).get("/api/v1/status")["tunnels"]
    except NotRunningError:
        return False
    return len(tunnels) == TUNNELS and all(tunnel["phase"] == "standby" for tunnel in tunnels)


async def _status(lab: Lab, control: str) -> None:
    status = [sys.executable, "-m", "reconciler", "status", "--control", control]
    for what, command in (("status", status), ("an empty Python", [sys.executable, "-c", "pass"])):
        for _ in range(ROUNDS):
            began = time.perf_counter()
            async with process(command) as started:
                await started.communicate()
                took = time.perf_counter() - began
            assert started.returncode == 0
            lab.record(Key(NAME, f"{what}, {TUNNELS:,} tunnels", "ms", OURS), took * 1000)
