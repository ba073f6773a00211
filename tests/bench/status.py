"""Time of `tunnels status` as a process, with 1,000 tunnels in the response. Most of it is start-up.

Run it with `make bench ARGS=status`. The goal is a median below 400 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reconciler.cli.client import Control, NotRunningError

TUNNELS, TARGETS, ROUNDS = 1000, 100, 11


def config() -> str:
    """Return a file of unreachable targets: only the status command is measured."""
    made = ["targets:\n"]
    for number in range(TARGETS):
        made.append(f"  t{number}: {{host: 127.0.0.1, port: 1, user: u, agent: true, connect: onDemand, tunnels: [")
        made += [f"{{name: n{one}, type: local, localPort: 0, remotePort: 1}}," for one in range(TUNNELS // TARGETS)]
        made.append("]}\n")
    return "".join(made)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        file, control = Path(directory) / "tunnels.yaml", str(Path(directory) / "control.sock")
        file.write_text(config())
        run = [sys.executable, "-m", "reconciler", "run", "--listen", "none", "--log-level", "error"]
        with subprocess.Popen([*run, "--control", control, str(file)]) as process:
            try:
                wait_for(control)
                measure(control)
            finally:
                process.terminate()


def wait_for(control: str) -> None:
    """Wait until all tunnels listen."""
    while True:
        try:
            tunnels = Control(control).get("/api/v1/status")["tunnels"]
        except NotRunningError:
            tunnels = []
        if len(tunnels) == TUNNELS and all(tunnel["phase"] == "standby" for tunnel in tunnels):
            return
        time.sleep(0.1)


def measure(control: str) -> None:
    status = [sys.executable, "-m", "reconciler", "status", "--control", control]
    for what, command in (("status", status), ("an empty Python", [sys.executable, "-c", "pass"])):
        took = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took.append((time.perf_counter() - began) * 1000)
        print(f"{what}, {TUNNELS} tunnels: median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms")


if __name__ == "__main__":
    main()
