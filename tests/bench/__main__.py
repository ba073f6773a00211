"""`make bench`: every measurement, or those named: `make bench ARGS='throughput plan_noop'`.

Each is a module here with a `main()`; each prints its figures, as a ratio to its peer where there is one. Nothing is
asserted: a busy machine is no defect of the program.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import bench


def main() -> int:
    found = [module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_")]
    chosen = sys.argv[1:] or found
    unknown = [name for name in chosen if name not in found]
    if unknown:
        print(f"unknown measurement {', '.join(unknown)}: expected one of {', '.join(found)}")
        return 2
    for name in chosen:
        print(f"\n== {name}")
        importlib.import_module(f"bench.{name}").main()
    return 0


sys.exit(main())
