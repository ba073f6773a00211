"""Runs `tunnels` commands beside a running process and prints their exit codes and output: a JSON object.

Argument: a JSON object. `process` are the arguments of `tunnels run`, which runs all the time. `phases` is a list of
lists of commands: those of one list run at the same time. The key of a command's result is the command's first word.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_TUNNELS = (sys.executable, "-m", "reconciler")
_WITHIN = 120.0  # seconds


class Result(NamedTuple):
    """How a command ended, and what it wrote to stdout and stderr."""

    code: int
    output: str


def _ran(words: Sequence[str]) -> Result:
    done = subprocess.run(
        [*_TUNNELS, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_WITHIN,
    )
    return Result(done.returncode, done.stdout)


def main(process: Sequence[str], phases: Sequence[Sequence[Sequence[str]]]) -> dict[str, Result]:
    """Run the commands and return their results. The key of the process is `run`."""
    results: dict[str, Result] = {}
    daemon = subprocess.Popen([*_TUNNELS, *process], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        with ThreadPoolExecutor(4) as threads:
            for phase in phases:
                results.update(zip((words[0] for words in phase), threads.map(_ran, phase), strict=True))
        daemon.send_signal(signal.SIGTERM)
        output, _ = daemon.communicate(timeout=_WITHIN)
    finally:
        daemon.kill()
    return {**results, "run": Result(daemon.returncode, output)}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
