"""Runs all measurements (`make bench`), or the named ones: `make bench ARGS='throughput plan_noop'`.

Each is a module of this package with a `main()` that prints its figures, with the ratio to a peer if there is one. No
figure is asserted on, because it depends on the load of the machine.
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
