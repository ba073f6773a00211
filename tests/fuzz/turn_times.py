"""Runs the program and records the iterations of its event loop that take much CPU time.

Run as a prefix of a command: `python turn_times.py REPORT python -m reconciler ARGUMENTS`. For each iteration longer
than `LONG` it appends a line to REPORT: its milliseconds, and those of the longest callback with its name. It measures
CPU time of the loop's thread, which a busy machine does not increase.
"""

from __future__ import annotations

import runpy
import sys
import time
from asyncio import base_events, events
from pathlib import Path
from typing import Any, TextIO

LONG = 0.02  # seconds


def record(report: TextIO) -> None:
    """Measure each iteration of every event loop of this process from now on."""
    # Any: asyncio has no public hook for an iteration or the call of a callback.
    loops: Any = base_events.BaseEventLoop
    handles: Any = events.Handle
    run_turn, run_callback = loops._run_once, handles._run
    longest = (0.0, "")

    def callback(self: Any) -> None:
        nonlocal longest
        began = time.thread_time()
        run_callback(self)
        if (took := time.thread_time() - began) > max(longest[0], LONG / 2):
            longest = took, " ".join(repr(self._callback).split())[:200]

    def turn(self: Any) -> None:
        nonlocal longest
        longest = (0.0, "")
        began = time.thread_time()
        run_turn(self)
        if (took := time.thread_time() - began) > LONG:
            report.write(f"{took * 1000:.0f} {longest[0] * 1000:.0f} in {longest[1]}\n")
            report.flush()

    loops._run_once, handles._run = turn, callback


def main() -> None:
    report, _, _, module, *arguments = sys.argv[1:]
    with Path(report).open("a") as out:
        record(out)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
