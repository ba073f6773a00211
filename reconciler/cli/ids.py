"""IDs on the command line: globs over `target/name`, or a target for all of its tunnels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from reconciler.cli.answers import Tunnel
from reconciler.cli.client import Trouble

_SHOWN = 5


def is_meant(tunnel: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns names this tunnel (by its id) or its target."""
    target = tunnel.partition("/")[0]
    return any(fnmatchcase(tunnel, pattern) or fnmatchcase(target, pattern) for pattern in patterns)


def chosen(tunnels: Sequence[Tunnel], patterns: Sequence[str]) -> list[Tunnel]:
    """Those that are meant, all without patterns. Raises Trouble for a pattern that names none."""
    for pattern in patterns:
        if not any(is_meant(tunnel["id"], [pattern]) for tunnel in tunnels):
            raise Trouble(f"no tunnel is called {pattern}; {_there_are([tunnel['id'] for tunnel in tunnels])}")
    return [tunnel for tunnel in tunnels if not patterns or is_meant(tunnel["id"], patterns)]


def _there_are(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"there are {', '.join(ids[:_SHOWN])}{more}" if ids else "there are none at all"
