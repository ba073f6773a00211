"""`tunnels explain`: print what a field of the file takes and means, or a reason or code with its causes and fixes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import click

from reconciler.cli.client import CommandError
from reconciler.cli.terminal.table import clean, wrapped
from reconciler.config.code_guides import CODE_GUIDES
from reconciler.config.schema.explain import Explanation, UnknownFieldError, explain
from reconciler.core.text.reason_guides import REASON_GUIDES, Guide, retry_of


@click.command("explain")
@click.argument("field", metavar="WORD")
def command(field: str) -> None:
    r"""Explain a field of tunnels.yaml, a reason of the status, or a code of a message.

    For a field: what it takes, its default, its meaning and an example. WORD is then a path as in error messages, or
    the bare name of the field. For a reason or code: its meaning, likely causes, and the fix for each.

    \b
    tunnels explain holdTimeout
    tunnels explain targets.prod.tunnels.db.localPort
    tunnels explain host_key
    tunnels explain open-proxy

    Exits 1 if there is no such word.
    """
    parts = list(_guides(field))
    try:
        parts = [*map(_lines, explain(field, [*REASON_GUIDES, *CODE_GUIDES])), *parts]
    except UnknownFieldError as error:
        if not parts:
            raise CommandError(clean(str(error))) from None
    click.echo("\n\n".join("\n".join(lines) for lines in parts))


def _guides(word: str) -> Iterator[list[str]]:
    for reason, guide in REASON_GUIDES.items():
        if _is_same(word, reason):
            yield [*_guide_lines(f"{reason} (reason)", guide), *_row("retry", retry_of(reason))]
    for code, guide in CODE_GUIDES.items():
        if _is_same(word, code):
            yield _guide_lines(f"{code} (code)", guide)


def _is_same(word: str, other: str) -> bool:
    """Return True if the words are the same but for case and for - in place of _."""
    return word.strip().lower().replace("-", "_") == other.replace("-", "_")


def _guide_lines(title: str, guide: Guide) -> list[str]:
    lines = [title, *wrapped(guide.meaning, _limit())]
    for cause in guide.causes:
        lines += [*_row("cause", cause.what), *_row("  fix", cause.fix)]
    return lines


def _lines(one: Explanation) -> list[str]:
    lines = [*one.places, *wrapped(one.meaning, _limit())] if one.meaning else [*one.places]
    rows = (
        ("takes", (one.takes,)),
        ("default", (one.default,)),
        ("example", one.examples),
        ("fields", (", ".join(one.fields),)),
    )
    for title, texts in rows:
        for text in filter(None, texts):
            lines += _row(title, text)
    return lines


def _row(title: str, text: str) -> list[str]:
    return wrapped(text, _limit(), indent=" " * 11, first=f"  {title:<9}")


def _limit() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
