"""`tunnels reload`: make the running process read its files."""

from __future__ import annotations

import sys

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control
from reconciler.cli.terminal.table import clean, print_message


@click.command("reload")
@shared_options.control
def command(control: Control) -> None:
    r"""Make the running process read its files again and report the result.

    The process notices changes without it; this command is for scripts that need the result.

    \b
    tunnels reload && tunnels wait

    Exits 1 if a file is invalid, and prints every mistake with its line. The last valid content stays in use.
    """
    answer = control.post("/api/v1/reload", {}, within=60.0)
    for error in answer["errors"]:
        print_message("error", error)
    if answer["valid"]:
        click.echo(f"valid: {clean(answer['revision'])}")
    sys.exit(0 if answer["valid"] else 1)
