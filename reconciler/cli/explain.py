"""`tunnels explain`: print what a field of the file takes and means."""

from __future__ import annotations

import shutil
import sys

import click

from reconciler.cli.client import CommandError
from reconciler.cli.terminal.table import clean, wrapped
from reconciler.config.schema.explain import Explanation, UnknownFieldError, explain


@click.command("explain")
@click.argument("field")
def command(field: str) -> None:
    r"""Print what a FIELD of tunnels.yaml takes, its default, its meaning and an example.

    FIELD is a path as in error messages, or the bare name of a field.

    \b
    tunnels explain holdTimeout
    tunnels explain targets.prod.tunnels.db.localPort
    tunnels explain targets

    Exits 1 if there is no such field.
    """
    try:
        found = explain(field)
    except UnknownFieldError as error:
        raise CommandError(clean(str(error))) from None
    click.echo("\n\n".join("\n".join(_lines(one)) for one in found))


def _lines(one: Explanation) -> list[str]:
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = [*one.places, *wrapped(one.meaning, limit)] if one.meaning else [*one.places]
    rows = (
        ("takes", (one.takes,)),
        ("default", (one.default,)),
        ("example", one.examples),
        ("fields", (", ".join(one.fields),)),
    )
    for title, texts in rows:
        for text in filter(None, texts):
            lines += wrapped(text, limit, indent=" " * 11, first=f"  {title:<9}")
    return lines
