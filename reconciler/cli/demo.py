"""`tunnels demo`."""

from __future__ import annotations

import asyncio
import sys

import click

from reconciler.cli.client import Trouble
from reconciler.cli.terminal import logs
from reconciler.cli.values import DURATION
from reconciler.demo.show import DemoError, show
from reconciler.system.descriptors import raise_soft_limit


@click.command("demo")
@click.option("--exit-after", type=DURATION, metavar="DURATION", help="End by itself after this time, such as 5s.")
def command(exit_after: float | None) -> None:
    r"""Watch tunnels converge.

    Starts an SSH server, a small web service behind it and a tunnels.yaml, all on this machine and gone afterwards,
    and tells you what to curl and what to edit.

    \b
    tunnels demo
    tunnels demo --exit-after 30s
    """
    raise_soft_limit()
    logs.set_up("error")  # the demo tells changes in its own way; mistakes in the file are errors
    try:
        sys.exit(asyncio.run(show(click.echo, exit_after)))
    except DemoError as error:
        raise Trouble(str(error)) from None
