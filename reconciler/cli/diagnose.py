"""`tunnels diagnose`: test a tunnel step by step, in the running process."""

from __future__ import annotations

import sys

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control, NotRunningError
from reconciler.cli.ids import chosen
from reconciler.cli.responses import StatusJson, StepJson
from reconciler.cli.terminal.table import clean, coloured, is_unicode, width, wrapped

_TIMEOUT = 30.0  # seconds; the process needs less than ten unless it is busy


@click.command("diagnose")
@shared_options.one_id
@shared_options.control
def command(pattern: str, control: Control) -> None:
    r"""Test a tunnel step by step: its listener, each hop, its destination, its probe; say what to fix.

    The running process runs the tests, with its own credentials. Live connections are not touched.

    \b
    tunnels diagnose prod/postgres

    Exits 0 if every step succeeds, else 1. A tunnel that is not up has a failed step, unless it is in standby.
    """
    try:
        status: StatusJson = control.get("/api/v1/status")
    except NotRunningError as error:
        hint = "to try only the logins, run `tunnels check --connect FILE`"
        raise NotRunningError(f"{error.message}; {hint}") from None
    is_ok = True
    for number, tunnel in enumerate(chosen(status, [pattern])):
        click.echo(("\n" if number else "") + clean(tunnel["id"]))
        steps: list[StepJson] = control.get("/api/v1/diagnose", within=_TIMEOUT, id=tunnel["id"])["steps"]
        click.echo("\n".join(line for step in steps for line in _lines(step)))
        is_ok &= all(step["ok"] for step in steps)
    sys.exit(0 if is_ok else 1)


def _lines(step: StepJson) -> list[str]:
    ok, failed = ("✓", "✗") if is_unicode() else ("ok  ", "FAIL")
    name, detail = clean(step["step"]), clean(step["detail"] or "")
    if step["ok"]:
        lines = wrapped(f"{ok} {name}: {detail}" if detail else f"{ok} {name}", width(), first="")
        return [lines[0].replace(ok, coloured(ok, "green"), 1), *lines[1:]]
    lines = wrapped(detail, width()) if detail else []
    fix = wrapped(f"Fix: {clean(step['fix'])}", width()) if step["fix"] else []
    return [f"{coloured(failed, 'red')} {name}", *lines, *(coloured(line, "yellow") for line in fix)]
