"""`tunnels status`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import click

from reconciler.cli import options
from reconciler.cli.client import Control, NothingRuns, Trouble
from reconciler.cli.ids import chosen, matches
from reconciler.cli.responses import Status, Tunnel
from reconciler.cli.terminal import status_view
from reconciler.cli.terminal.table import clean, width, wrapped

_EVERY = 1.0  # seconds between two looks of --watch
_HOME, _TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_NOTHING_RUNS = 3

_Show = Callable[[Status, bool], None]


@click.command("status")
@options.ids()
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@options.output("all that is known, as /api/v1/status has it; with --watch a line each time.")
@options.control
def command(ids: tuple[str, ...], watch: bool, output: str, control: Control) -> None:
    r"""What is up, what is not, and why.

    An ID is target/name, a target, or a glob over either.

    \b
    tunnels status
    tunnels status 'prod/*'
    tunnels status --output json | jq '.tunnels[] | select(.up | not) | .id'

    Exits 0 if all of them are up (those that are off or standing by do not count), 1 if not, or if the process is
    ending, 3 if nothing runs.
    """
    show = _json if output == "json" else _text
    code = _look(ids, control, show, watch)
    with contextlib.suppress(KeyboardInterrupt):
        while watch:
            time.sleep(_EVERY)
            code = _look(ids, control, show, watch)
    sys.exit(code)


def _look(ids: tuple[str, ...], control: Control, show: _Show, watch: bool) -> int:
    try:
        status: Status = control.get("/api/v1/status")
        status["tunnels"] = _chosen(status, ids)
    except Trouble as trouble:
        nothing = isinstance(trouble, NothingRuns)
        if watch and show is _text:
            _screen(wrapped(clean(trouble.message), width(), indent=""))
        else:
            trouble.show()
        return _NOTHING_RUNS if nothing else 1
    if ids:
        named = {tunnel["target"] for tunnel in status["tunnels"]}
        status["targets"] = [target for target in status["targets"] if target["name"] in named]
    show(status, watch)
    is_troubled = status.get("ending") or status.get("fault")
    return 0 if not is_troubled and all(map(status_view.is_fine, status["tunnels"])) else 1


def _chosen(status: Status, ids: tuple[str, ...]) -> list[Tunnel]:
    """Those that are meant. Of a process that ends most are gone: that they are not there says nothing."""
    if status.get("ending"):
        return [tunnel for tunnel in status["tunnels"] if not ids or matches(tunnel["id"], ids)]
    return chosen(status, ids)


def _json(status: Status, watch: bool) -> None:
    click.echo(json.dumps(status, indent=None if watch else 2))


def _text(status: Status, watch: bool) -> None:
    now = datetime.now(UTC)
    if watch:
        _screen(status_view.lines(status, now, width(), shutil.get_terminal_size().lines - 1))
    else:
        click.echo("\n".join(status_view.lines(status, now, width())))


def _screen(lines: list[str]) -> None:
    """In place of what stood there; without flicker, as nothing is blanked before it is written anew."""
    if sys.stdout.isatty():
        end = f"{_TO_END_OF_LINE}\n"
        sys.stdout.write(_HOME + end.join([*lines, ""]) + _TO_END_OF_SCREEN)
        sys.stdout.flush()
    else:
        click.echo("\n".join([*lines, ""]))
