"""`tunnels schema`: print the JSON Schema of tunnels.yaml."""

from __future__ import annotations

import click

from reconciler.config.schema.document import schema_text


@click.command("schema")
def command() -> None:
    r"""Print the JSON Schema of tunnels.yaml.

    \b
    tunnels schema > tunnels.schema.json
    # and as the first line of tunnels.yaml:
    # yaml-language-server: $schema=./tunnels.schema.json
    """
    click.echo(schema_text(), nl=False)
