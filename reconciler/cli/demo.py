"""`tunnels demo`: an embedded SSH server, a web service and a tunnels.yaml to edit."""

from __future__ import annotations

import sys

import click

from reconciler.cli.client import CommandError
from reconciler.cli.param_types import DURATION
from reconciler.cli.terminal import logs
from reconciler.demo.show import show
from reconciler.system.descriptors import raise_soft_limit
from reconciler.system.event_loop import readiness
from reconciler.system.temporary_directory import NoTemporaryDirectoryError


@click.command("demo")
@click.option("--exit-after", type=DURATION, metavar="DURATION", help="Exit after this time, for example 5s.")
def command(exit_after: float | None) -> None:
    r"""Try tunnels on this machine.

    Starts an SSH server, a small web service behind it and the tunnels of a tunnels.yaml. Prints a curl command to try
    and the file to edit. Removes everything at the end.

    \b
    tunnels demo
    tunnels demo --exit-after 30s

    Exits 0 after Ctrl-C or the given time.
    """
    raise_soft_limit()
    logs.set_up("error")  # the demo prints changes itself; mistakes in the file are errors
    try:
        sys.exit(readiness.run(show(click.echo, exit_after)))
    except NoTemporaryDirectoryError as error:
        raise CommandError(str(error)) from None
