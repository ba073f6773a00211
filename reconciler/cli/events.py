"""`tunnels events`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import datetime

import click

from reconciler.cli import options
from reconciler.cli.answers import Event
from reconciler.cli.client import Control
from reconciler.cli.ids import is_meant
from reconciler.cli.table import clean, painted

_COLOURS = {"up": "green", "down": "red", "unhealthy": "red"}


@click.command("events")
@options.ids()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@options.output("one JSON object a line.")
@options.control
def command(ids: tuple[str, ...], follow: bool, output: str, control: Control) -> None:
    r"""What changed, when, and why.

    \b
    tunnels events
    tunnels events 'prod/*' --follow
    """
    with contextlib.suppress(KeyboardInterrupt):
        for event in _events(control, follow):
            if not ids or is_meant(event["subject"].rpartition(" ")[2], ids):
                click.echo(json.dumps(event, ensure_ascii=False) if output == "json" else _line(event))
                sys.stdout.flush()


def _events(control: Control, follow: bool) -> Iterator[Event]:
    """Those that are remembered, then (--follow) new ones: the stream begins with what is remembered too."""
    if follow:
        return control.follow("/api/v1/events", follow="1")
    return iter(control.get("/api/v1/events")["events"])


def _line(event: Event) -> str:
    """`2026-11-22 12:00:00  tunnel prod/pg  connecting -> up`, the time in the zone of whoever reads it."""
    phase, before = event["phase"] or "gone", event["before"]
    reason = f" ({event['reason']})" if event["reason"] else ""
    change = (f"{before} -> " if before and before != phase else "") + painted(phase + reason, _COLOURS.get(phase, ""))
    message = f": {clean(event['message'])}" if event["message"] else ""
    return f"{_when(event['at'])}  {clean(event['subject'])}  {change}{message}"


def _when(moment: str) -> str:
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return clean(moment)
