"""`tunnels status`: show the status of the running process."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import click

from reconciler.cli import shared_options
from reconciler.cli.client import CommandError, Control, NotRunningError
from reconciler.cli.ids import chosen
from reconciler.cli.responses import StatusJson, TunnelJson
from reconciler.cli.terminal import status_view
from reconciler.cli.terminal.table import clean, height, width, wrapped
from reconciler.core.text.progress import matches

_WATCH_INTERVAL = 1.0  # seconds
_HOME, _TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_NOT_RUNNING = 3

_Show = Callable[[StatusJson, bool], None]


@click.command("status")
@shared_options.ids()
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@shared_options.output("the full status, as in /api/v1/status; with --watch one line each time.")
@shared_options.control
def command(ids: tuple[str, ...], watch: bool, output: str, control: Control) -> None:
    r"""Show which tunnels are up, which are not, and why.

    An ID is target/name, a target, or a glob over either.

    \b
    tunnels status
    tunnels status 'prod/*'
    tunnels status --output json | jq '.tunnels[] | select(.up | not) | .id'

    Exits 0 if all tunnels are up (tunnels that are off or in standby do not count), 1 if not or if the process is
    ending, 3 if no process runs.
    """
    show = _json if output == "json" else _text
    code = _show_once(ids, control, show, watch)
    with contextlib.suppress(KeyboardInterrupt):
        while watch:
            time.sleep(_WATCH_INTERVAL)
            code = _show_once(ids, control, show, watch)
    sys.exit(code)


def _show_once(ids: tuple[str, ...], control: Control, show: _Show, watch: bool) -> int:
    try:
        status: StatusJson = control.get("/api/v1/status")
        status["tunnels"] = _chosen(status, ids)
    except CommandError as error:
        if watch and show is _text:
            _screen(wrapped(clean(error.message), width(), indent=""))
        else:
            error.show()
        return _NOT_RUNNING if isinstance(error, NotRunningError) else 1
    if ids:
        names = {tunnel["target"] for tunnel in status["tunnels"]}
        status["targets"] = [target for target in status["targets"] if target["name"] in names]
    show(status, watch)
    is_degraded = status.get("ending") or status.get("fault")
    return 0 if not is_degraded and all(map(status_view.is_healthy, status["tunnels"])) else 1


def _chosen(status: StatusJson, ids: tuple[str, ...]) -> list[TunnelJson]:
    """Return the tunnels that `ids` match. While the process ends, a missing tunnel is no error."""
    if status.get("ending"):
        return [tunnel for tunnel in status["tunnels"] if not ids or matches(tunnel["id"], ids)]
    return chosen(status, ids)


def _json(status: StatusJson, watch: bool) -> None:
    click.echo(json.dumps(status, indent=None if watch else 2))


def _text(status: StatusJson, watch: bool) -> None:
    now = datetime.now(UTC)
    if watch:
        _screen(status_view.lines(status, now, width(), height()))
    else:
        click.echo("\n".join(status_view.lines(status, now, width())))


def _screen(lines: list[str]) -> None:
    """Replace the screen content line by line, without clearing it first, so that it does not flicker."""
    if sys.stdout.isatty():
        end = f"{_TO_END_OF_LINE}\n"
        sys.stdout.write(_HOME + end.join([*lines, ""]) + _TO_END_OF_SCREEN)
        sys.stdout.flush()
    else:
        click.echo("\n".join([*lines, ""]))
