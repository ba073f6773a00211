"""`tunnels resume`."""

from __future__ import annotations

import click

from reconciler.cli import options
from reconciler.cli.client import Control
from reconciler.cli.ids import named
from reconciler.cli.terminal.table import clean


@click.command("resume")
@options.ids()
@click.option("--all", "everything", is_flag=True, help="All tunnels.")
@options.control
def command(ids: tuple[str, ...], everything: bool, control: Control) -> None:
    r"""Turn paused tunnels on again.

    Clients that were still draining stay.

    \b
    tunnels resume prod/postgres
    tunnels resume --all
    """
    meant = options.all_or_ids(ids, everything)
    off = {tunnel: why for tunnel, why in options.off(control).items() if not why.startswith("paused")}
    with named(control, meant):
        answer = control.post("/api/v1/resume", {"ids": meant})
    for done in answer["done"]:
        click.echo(clean(f"{done}: stays off: {off[done]}" if done in off else f"{done}: resumed"))
