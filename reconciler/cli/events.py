"""`tunnels events`: show what changed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control
from reconciler.cli.ids import chosen
from reconciler.cli.responses import EventJson
from reconciler.cli.terminal.table import clean, coloured
from reconciler.core.subject import Subject
from reconciler.core.text.progress import matches

_COLOURS = {"up": "green", "down": "red", "unhealthy": "red"}


@click.command("events")
@shared_options.ids()
@click.option("--follow", "-f", is_flag=True, help="Continue with new events until Ctrl-C.")
@shared_options.output("one JSON object per line.")
@shared_options.control
def command(ids: tuple[str, ...], follow: bool, output: str, control: Control) -> None:
    r"""Show what changed, when, and why.

    \b
    tunnels events
    tunnels events 'prod/*' --follow

    Exits 1 if an ID matches no tunnel, or if no process runs.
    """
    with contextlib.suppress(KeyboardInterrupt) if follow else contextlib.nullcontext():
        for event in _events(ids, follow, control):
            if not ids or _is_of(event, ids):
                click.echo(json.dumps(event) if output == "json" else _line(event))
                sys.stdout.flush()


def _events(ids: tuple[str, ...], follow: bool, control: Control) -> Iterable[EventJson]:
    """Return the recent events and, with --follow, new ones (the stream begins with the recent events too).

    Raises CommandError for an ID that matches neither a recent event nor a tunnel.
    """
    recent: list[EventJson] = control.get("/api/v1/events")["events"]
    if without_event := [pattern for pattern in ids if not any(_is_of(event, [pattern]) for event in recent)]:
        chosen(control.get("/api/v1/status"), without_event)
    return control.follow("/api/v1/events", follow="1") if follow else recent


def _is_of(event: EventJson, ids: Iterable[str]) -> bool:
    subject = Subject.parse(event["subject"])
    return matches(subject.name or subject.kind, ids)


def _line(event: EventJson) -> str:
    """Return `2026-11-22T12:00:00.123Z  tunnel prod/pg  connecting -> up`, with the time as in the log."""
    phase, before = event["phase"] or "gone", event["before"]
    reason = f" ({event['reason']})" if event["reason"] else ""
    origin = f"{clean(before)} -> " if before and before != phase else ""
    change = origin + coloured(clean(phase + reason), _COLOURS.get(phase, ""))
    message = f": {clean(event['message'])}" if event["message"] else ""
    return f"{clean(event['at'])}  {clean(event['subject'])}  {change}{message}"
