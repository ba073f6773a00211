"""`tunnels connections`: list live client connections."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from reconciler.cli import shared_options
from reconciler.cli.client import Control
from reconciler.cli.ids import chosen
from reconciler.cli.responses import Client
from reconciler.cli.terminal.table import Cell, Column, seconds_since, size, span, table, width
from reconciler.core.text.progress import matches

_COLUMNS = (
    Column("TUNNEL", least=16),
    Column("FROM", least=14),
    Column("TO", least=12),
    Column("STATE"),
    Column("SINCE", right=True),
    Column("SENT", right=True),
    Column("RECEIVED", right=True),
    Column("USER", extra=True),
)


@click.command("connections")
@shared_options.ids()
@shared_options.output("the list, as /api/v1/connections has it.")
@shared_options.control
def command(ids: tuple[str, ...], output: str, control: Control) -> None:
    r"""List the live client connections: source, destination, state, age and bytes.

    SENT counts bytes towards the SSH server, RECEIVED counts bytes from it.

    \b
    tunnels connections
    tunnels connections prod/postgres

    Exits 1 if an ID matches no tunnel, or if no process runs.
    """
    if ids:
        chosen(control.get("/api/v1/status"), ids)  # raises CommandError for an ID that matches no tunnel
    connections: list[Client] = control.get("/api/v1/connections")["connections"]
    clients = [client for client in connections if not ids or matches(client["tunnel"], ids)]
    if output == "json":
        click.echo(json.dumps({"connections": clients}, indent=2))
    elif clients:
        now = datetime.now(UTC)
        click.echo("\n".join(table(_COLUMNS, [_row(client, now) for client in clients], width())))
    else:
        click.echo("no clients are connected")


def _row(client: Client, now: datetime) -> list[Cell]:
    return [
        Cell(client["tunnel"]),
        Cell(client["from"] or "(unix socket)"),
        Cell(client["to"] or ""),
        Cell(client["state"]),
        Cell(span(seconds_since(client["since"], now))),
        Cell(size(client["bytesSent"])),
        Cell(size(client["bytesReceived"])),
        Cell(client["user"] or ""),
    ]
