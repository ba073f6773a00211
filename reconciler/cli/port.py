"""`tunnels port`: print the bound port of a tunnel."""

from __future__ import annotations

import re

import click

from reconciler.cli import shared_options
from reconciler.cli.client import CommandError, Control
from reconciler.cli.ids import chosen
from reconciler.cli.responses import TunnelJson

_PORT = re.compile(r":([0-9]+)$")  # does not match a range such as :8000-8009
_UNBOUND = frozenset({"local_port_in_use", "bind", "remote_port_in_use", "forbidden_by_server"})


@click.command("port")
@shared_options.one_id
@shared_options.control
def command(pattern: str, control: Control) -> None:
    r"""Print the port that a tunnel listens on, and nothing else.

    Useful for `localPort: 0` and port ranges, for which the port is chosen when the tunnel starts.

    \b
    psql -h localhost -p "$(tunnels port prod/postgres)"

    Exits 1 if the ID matches no tunnel or several, if the tunnel has no port, or if no process runs.
    """
    found = chosen(control.get("/api/v1/status"), [pattern])
    if len(found) > 1:
        raise CommandError(
            f"{pattern} matches {len(found)} tunnels, among them {found[0]['id']} and {found[1]['id']}: expected one"
        )
    click.echo(_port(found[0]))


def _port(tunnel: TunnelJson) -> str:
    name, listen = tunnel["id"], tunnel["listen"]
    if tunnel["phase"] == "off" or tunnel["reason"] in _UNBOUND:
        raise CommandError(f"{name} is {tunnel['phase']} and has no port: {tunnel['message'] or tunnel['reason']}")
    matched = _PORT.search(listen)
    if matched is not None and matched[1] != "0":
        return matched[1]
    if "/" in listen:
        raise CommandError(f"{name} has no port: it listens on the unix socket {listen}")
    raise CommandError(f"{name} is {tunnel['phase']} and has no port yet: wait for it with `tunnels wait {name}`")
