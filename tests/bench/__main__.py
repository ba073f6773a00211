"""Runs the measurements and writes `figures.json`, `figures.md` and a plot of each (`make bench`).

All programs are measured in turns, five times each; the tables have the medians. No figure is asserted on, because it
depends on the load of the machine: compare ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import resource
import sys
import tempfile
import traceback
from pathlib import Path

from bench import own_network, report
from bench.figures import Figures, facts
from bench.lab import Lab

MEASUREMENTS = (
    "throughput",
    "round_trip",
    "connections",
    "long_path",
    "memory",
    "tunnels",
    "edit",
    "outage",
    "held",
    "plan_noop",
    "scrape",
    "shards",
    "status",
)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round with few bytes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default 5)")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, metavar="NAME")
    parser.add_argument(
        "--congestion",
        default=own_network.USUAL,
        metavar="NAME",
        help=f"TCP congestion control, in an own network namespace if this user may create one (default "
        f"{own_network.USUAL}); {own_network.MACHINES}: the machine's network as it is",
    )
    parser.add_argument("--output", type=Path, default=Path("bench-figures"), help="directory to write to")
    return parser.parse_args()


def main() -> int:
    arguments = parsed()
    own_network.enter(arguments.congestion)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # thousands of clients
    figures = Figures(facts(" ".join(["make bench", f"ARGS='{' '.join(sys.argv[1:])}'"][: len(sys.argv)])))
    output: Path = arguments.output
    failed = list[str]()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        rounds = 1 if arguments.quick else arguments.rounds
        lab = Lab(Path(directory), figures, arguments.quick, rounds)
        for name in arguments.only:
            try:
                asyncio.run(importlib.import_module(f"bench.measurements.{name}").measure(lab))
            except (AssertionError, OSError):  # the others still say something
                traceback.print_exc()
                failed.append(name)
            figures.save(output / "figures.json")
    table = report.markdown(figures)
    (output / "figures.md").write_text(table)
    for name, rows in report.by_measurement(figures).items():
        (output / f"{name.replace(' ', '-')}.svg").write_text(report.svg(name, rows))
    print(table)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
