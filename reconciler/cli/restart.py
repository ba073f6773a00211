"""`tunnels restart`."""

from __future__ import annotations

import click

from reconciler.cli import options
from reconciler.cli.client import Control
from reconciler.cli.ids import named
from reconciler.cli.terminal.table import clean


@click.command("restart")
@options.ids()
@click.option("--all", "everything", is_flag=True, help="All targets.")
@click.option("--now", is_flag=True, help="Cut the clients and connect anew, rather than make before break.")
@options.control
def command(ids: tuple[str, ...], everything: bool, now: bool, control: Control) -> None:
    r"""Give the targets of these tunnels new SSH connections.

    Make before break: the new connection is up before the old one takes no more clients, and those who are in may
    finish (handoverTimeout). With --now they are cut.

    \b
    tunnels restart prod
    tunnels restart 'staging/*' --now
    """
    meant = options.all_or_ids(ids, everything)
    off = options.off(control)
    with named(control, meant):
        answer = control.post("/api/v1/restart", {"ids": meant, "now": now})
    for done in answer["done"]:
        click.echo(clean(f"{done}: stays off: {off[done]}" if done in off else f"{done}: restarted"))
