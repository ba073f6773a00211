"""`tunnels reload`."""

from __future__ import annotations

import sys

import click

from reconciler.cli import options
from reconciler.cli.client import Control
from reconciler.cli.terminal.table import clean, complain


@click.command("reload")
@options.control
def command(control: Control) -> None:
    r"""Have the running process read its files again, now.

    It notices changes by itself; this is for a script that wants the answer.

    \b
    tunnels reload && tunnels wait

    Exits 1, with every mistake and its line, if a file is not valid; what it said before still holds.
    """
    answer = control.post("/api/v1/reload", {}, within=60.0)
    for error in answer["errors"]:
        complain("error", error)
    if answer["valid"]:
        click.echo(f"valid: {clean(answer['revision'])}")
    sys.exit(0 if answer["valid"] else 1)
