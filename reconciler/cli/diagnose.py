"""`tunnels diagnose`."""

from __future__ import annotations

import sys

import click

from reconciler.cli import options
from reconciler.cli.client import Control, NothingRuns
from reconciler.cli.ids import chosen
from reconciler.cli.responses import Status, Step
from reconciler.cli.terminal.table import clean, is_unicode, painted, width, wrapped

_WITHIN = 30.0  # it takes less than ten seconds, on a process that has time for it


@click.command("diagnose")
@options.one_id
@options.control
def command(pattern: str, control: Control) -> None:
    r"""Go a tunnel's way: its listener, hop by hop to its destination, its probe: what works, what not, what to do.

    The running process does it, with its credentials and from where it is. Live connections are left alone.

    \b
    tunnels diagnose prod/postgres

    Exits 0 if every step is well, 1 if not. One that is not up has a step that is not well, unless it stands by.
    """
    try:
        status: Status = control.get("/api/v1/status")
    except NothingRuns as nothing:
        raise NothingRuns(f"{nothing.message}; `tunnels check --connect FILE` tries the logins from here") from None
    well = True
    for number, tunnel in enumerate(chosen(status, [pattern])):
        click.echo(("\n" if number else "") + clean(tunnel["id"]))
        steps: list[Step] = control.get("/api/v1/diagnose", within=_WITHIN, id=tunnel["id"])["steps"]
        click.echo("\n".join(line for step in steps for line in _lines(step)))
        well &= all(step["ok"] for step in steps)
    sys.exit(0 if well else 1)


def _lines(step: Step) -> list[str]:
    good, bad = ("✓", "✗") if is_unicode() else ("ok  ", "FAIL")
    name, detail = clean(step["step"]), clean(step["detail"] or "")
    if step["ok"]:
        said = wrapped(f"{good} {name}: {detail}" if detail else f"{good} {name}", width(), first="")
        return [said[0].replace(good, painted(good, "green"), 1), *said[1:]]
    said = wrapped(detail, width()) if detail else []
    fix = wrapped(f"Fix: {clean(step['fix'])}", width()) if step["fix"] else []
    return [f"{painted(bad, 'red')} {name}", *said, *(painted(line, "yellow") for line in fix)]
