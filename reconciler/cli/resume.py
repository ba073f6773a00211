"""`tunnels resume`: end a pause."""

from __future__ import annotations

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control
from reconciler.cli.ids import explained
from reconciler.cli.terminal.table import clean


@click.command("resume")
@shared_options.ids()
@click.option("--all", "everything", is_flag=True, help="All tunnels.")
@shared_options.control
def command(ids: tuple[str, ...], everything: bool, control: Control) -> None:
    r"""Turn paused tunnels on.

    Clients that are still draining stay connected.

    \b
    tunnels resume prod/postgres
    tunnels resume --all

    Exits 1 if an ID matches no tunnel, or if no process runs.
    """
    patterns = shared_options.all_or_ids(ids, everything)
    off = shared_options.off_reasons(control, paused=False)
    with explained(control, patterns):
        answer = control.post("/api/v1/resume", {"ids": patterns})
    for tunnel in answer["done"]:
        click.echo(clean(f"{tunnel}: stays off: {off[tunnel]}" if tunnel in off else f"{tunnel}: resumed"))
