"""`tunnels schema`: print the JSON Schema of tunnels.yaml or of the policy file."""

from __future__ import annotations

import click

from reconciler.config.schema.document import schema_text


@click.command("schema")
@click.option("--policy", is_flag=True, help="The schema of the policy file (--policy of `run`, `check` and `plan`).")
def command(policy: bool) -> None:
    r"""Print the JSON Schema of tunnels.yaml.

    \b
    tunnels schema > tunnels.schema.json
    # and as the first line of tunnels.yaml:
    # yaml-language-server: $schema=./tunnels.schema.json

    Exits 0.
    """
    click.echo(schema_text("policy" if policy else "tunnels"), nl=False)
