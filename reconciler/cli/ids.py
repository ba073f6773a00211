"""IDs on the command line: globs over `target/name`, or over targets for all of their tunnels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from reconciler.cli.client import CommandError, Control, RequestRefusedError
from reconciler.cli.responses import FileJson, StatusJson, TunnelJson
from reconciler.core.text.forms import and_more
from reconciler.core.text.progress import matches

_SHOWN = 5


def chosen(status: StatusJson, patterns: Sequence[str]) -> list[TunnelJson]:
    """Return the tunnels that the patterns match, all if there are no patterns.

    Raises CommandError for a pattern that matches none. The message includes the errors of invalid files, because the
    tunnel may be in one of them, and the shard, because another process may serve the tunnel.
    """
    tunnels = status["tunnels"]
    for pattern in patterns:
        if not any(matches(tunnel["id"], [pattern]) for tunnel in tunnels):
            known = _known([tunnel["id"] for tunnel in tunnels])
            invalid = "".join(map(_invalid, status["config"]["files"]))
            raise CommandError(f'no tunnel matches "{pattern}": {known}{_shard(status)}{invalid}')
    return [tunnel for tunnel in tunnels if not patterns or matches(tunnel["id"], patterns)]


@contextmanager
def explained(control: Control, patterns: Sequence[str]) -> Iterator[None]:
    """Turn the response "404: no such tunnel" into the error that `chosen` raises."""
    try:
        yield
    except RequestRefusedError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            chosen(control.get("/api/v1/status"), patterns)
        raise


def _shard(status: StatusJson) -> str:
    shard = status.get("shard")
    return f"; this process is shard {shard}, and another shard may have the tunnel" if shard else ""


def _invalid(file: FileJson) -> str:
    if file["valid"]:
        return ""
    return f"; {file['path']} is invalid and its last valid content stays in use: {file['error']}"


def _known(ids: list[str]) -> str:
    return f"the tunnels are {and_more(ids, _SHOWN)}" if ids else "there are no tunnels"
