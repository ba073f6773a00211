"""`tunnels restart`: replace SSH connections."""

from __future__ import annotations

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control
from reconciler.cli.ids import explained
from reconciler.cli.terminal.table import clean


@click.command("restart")
@shared_options.ids()
@click.option("--all", "everything", is_flag=True, help="All targets.")
@click.option("--now", is_flag=True, help="Cut the clients and reconnect, instead of make before break.")
@shared_options.control
def command(ids: tuple[str, ...], everything: bool, now: bool, control: Control) -> None:
    r"""Give the targets of these tunnels new SSH connections.

    Make before break: the old connection serves clients until the new one is up. Its live clients may finish within
    handoverTimeout. With --now they are cut.

    \b
    tunnels restart prod
    tunnels restart 'staging/*' --now

    Exits 1 if an ID matches no tunnel, or if no process runs.
    """
    patterns = shared_options.all_or_ids(ids, everything)
    off = shared_options.off_reasons(control, paused=True)
    with explained(control, patterns):
        answer = control.post("/api/v1/restart", {"ids": patterns, "now": now})
    for tunnel in answer["done"]:
        click.echo(clean(f"{tunnel}: stays off: {off[tunnel]}" if tunnel in off else f"{tunnel}: restarted"))
