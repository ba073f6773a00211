"""Runs the program, and records the turns of its event loop that take long, in processor time.

Run as `python turn_times.py REPORT python -m reconciler ARGUMENTS`, in front of the command that it stands for. For
each turn beyond `LONG` it appends a line to REPORT: milliseconds, and those of the longest callback, and its name.
Processor time of the loop's thread, rather than time on the clock: a busy machine does not add to it.
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
    """Time each turn of every event loop of this process from now on."""
    # Any: asyncio shows neither a loop's turn nor the call of a callback.
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
