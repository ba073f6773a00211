"""`tunnels run`."""

from __future__ import annotations

import asyncio
import sys

import click

from reconciler.app import App
from reconciler.cli import logs
from reconciler.cli.files import files
from reconciler.config.load import Config


@click.command("run")
@files
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to tell on stderr.",
)
def command(config: Config, log_level: str) -> None:
    """Converge on FILE..., and keep converging as they change.

    A FILE may be a directory. Without one: $TUNNELS_CONFIG, ./tunnels.yaml, or $XDG_CONFIG_HOME/tunnels/.

    SIGHUP reads the files again. SIGTERM stops accepting, lets clients drain and exits 0; a second one ends at once.
    """
    logs.set_up(log_level)
    sys.exit(asyncio.run(_run(config)))


async def _run(config: Config) -> int:
    app = App(config)
    with app.signals():
        return await app.run()
