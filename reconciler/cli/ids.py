"""IDs on the command line: globs over `target/name`, or a target for all of its tunnels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http import HTTPStatus

from reconciler.cli.client import Control, Refused, Trouble
from reconciler.cli.responses import File, Status, Tunnel

_SHOWN = 5


def matches(tunnel: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns names this tunnel (by its id) or its target."""
    target = tunnel.partition("/")[0]
    return any(fnmatchcase(tunnel, pattern) or fnmatchcase(target, pattern) for pattern in patterns)


def chosen(status: Status, patterns: Sequence[str]) -> list[Tunnel]:
    """The tunnels that are meant, all without patterns. Raises Trouble for a pattern that names none.

    It may be in a file that was rejected: the sentence says what is wrong there.
    """
    tunnels = status["tunnels"]
    for pattern in patterns:
        if not any(matches(tunnel["id"], [pattern]) for tunnel in tunnels):
            wrong = "".join(map(_wrong, status["config"]["files"]))
            raise Trouble(f"no tunnel is called {pattern}; {_there_are([tunnel['id'] for tunnel in tunnels])}{wrong}")
    return [tunnel for tunnel in tunnels if not patterns or matches(tunnel["id"], patterns)]


@contextmanager
def named(control: Control, patterns: Sequence[str]) -> Iterator[None]:
    """Where the process answers that a pattern names none, it is told as every command tells it."""
    try:
        yield
    except Refused as refused:
        if refused.status == HTTPStatus.NOT_FOUND:
            chosen(control.get("/api/v1/status"), patterns)
        raise


def _wrong(file: File) -> str:
    if file["valid"]:
        return ""
    return f". {file['path']} is not valid, and what it said before still holds: {file['error']}"


def _there_are(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"there are {', '.join(ids[:_SHOWN])}{more}" if ids else "there are none at all"
