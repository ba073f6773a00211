"""`tunnels pause`: turn tunnels off at run time."""

from __future__ import annotations

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control
from reconciler.cli.ids import explained
from reconciler.cli.param_types import DURATION
from reconciler.cli.terminal.table import clean
from reconciler.config.schema.values import shown_duration


@click.command("pause")
@shared_options.ids()
@click.option("--all", "everything", is_flag=True, help="All tunnels.")
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="Resume after this time.")
@shared_options.control
def command(ids: tuple[str, ...], everything: bool, seconds: float | None, control: Control) -> None:
    r"""Turn tunnels off without editing the file.

    Paused tunnels accept no new clients, and live clients drain. A pause lasts until `resume`, or until the process
    ends.

    \b
    tunnels pause prod/postgres --for 1h
    tunnels pause --all

    Exits 1 if an ID matches no tunnel, or if no process runs.
    """
    patterns = shared_options.all_or_ids(ids, everything)
    until = f" for {shown_duration(seconds)}" if seconds else ""
    with explained(control, patterns):
        answer = control.post("/api/v1/pause", {"ids": patterns, "seconds": seconds})
    for tunnel in answer["done"]:
        click.echo(f"{clean(tunnel)}: paused{until}")
