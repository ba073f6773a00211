"""Text for terminals: tables and sentences that fit the width, colour, times and sizes for people.

Invisible characters of text from files, servers and clients are escaped here (`clean`).
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

import click

from reconciler.core.text.printable import printable
from reconciler.system.redaction import redact

_GAP = "  "
_SENTENCE_MAX = 100  # columns; longer lines are hard to read
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Column:
    """A table column.

    least   the width that it may be cut down to; 0: never cut
    extra   shown only if the table then still fits without cuts
    """

    title: str
    right: bool = False
    least: int = 0
    extra: bool = False


class Cell(NamedTuple):
    text: str
    colour: str = ""


def width() -> int | None:
    """Return the columns of the terminal, None if the output is no terminal and is not cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def is_coloured() -> bool:
    """Return True if the output is a terminal and $NO_COLOR is not set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def coloured(text: str, colour: str) -> str:
    return click.style(text, fg=colour) if colour and is_coloured() else text


def clean(text: str) -> str:
    """Escape invisible characters and redact secret values in text from servers, clients and files."""
    return printable(redact(text))


def wrapped(text: str, limit: int | None, indent: str = "  ", first: str | None = None) -> list[str]:
    """Wrap between words only, so that addresses and commands can be copied. `first` is the first line's indent."""
    first = indent if first is None else first
    if limit is None:
        return [first + text]
    return textwrap.wrap(
        text,
        min(limit, _SENTENCE_MAX),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_message(kind: str, message: object, file: IO[Any] | None = None) -> None:
    """Print `error: ...` or `warning: ...` on stderr; one line if stderr is no terminal, whatever $COLUMNS is."""
    stream = file or sys.stderr  # None if stderr is closed
    limit = shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None
    click.echo("\n".join(wrapped(clean(f"{kind}: {message}"), limit, first="")), file=file, err=file is None)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], limit: int | None) -> list[str]:
    """Return aligned lines, titles first; cells are cut in the middle to fit `limit`."""
    cells = [[Cell(clean(cell.text), cell.colour) for cell in row] for row in rows]
    widths = [
        max([len(column.title), *(len(row[number].text) for row in cells)]) for number, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if limit is not None:
        if _total(widths, shown) > limit:
            shown = [number for number in shown if not columns[number].extra]
        _shrink(widths, shown, columns, limit)
    titles = [Cell(column.title) for column in columns]
    return [_GAP.join(_fit(row[n], widths[n], columns[n].right) for n in shown).rstrip() for row in [titles, *cells]]


def _total(widths: list[int], shown: list[int]) -> int:
    return sum(widths[number] for number in shown) + len(_GAP) * (len(shown) - 1)


def _shrink(widths: list[int], shown: list[int], columns: Sequence[Column], limit: int) -> None:
    """Narrow the widest column that may be cut, until the table fits."""
    while _total(widths, shown) > limit:
        cuttable = [n for n in shown if columns[n].least and widths[n] > columns[n].least]
        if not cuttable:
            return
        widths[max(cuttable, key=lambda number: widths[number])] -= 1


def _fit(cell: Cell, size: int, right: bool) -> str:
    text = shortened(cell.text, size)
    padded = text.rjust(size) if right else text.ljust(size)
    return padded.replace(text, coloured(text, cell.colour), 1) if cell.colour and text else padded


def shortened(text: str, size: int) -> str:
    """Cut in the middle: the start of a name and the port at its end are the most useful parts."""
    if len(text) <= size:
        return text
    mark = "…" if is_unicode() else "~"
    end = (size - 1) // 2
    return text[: size - 1 - end] + mark + text[len(text) - end :]


def count(number: int, noun: str) -> str:
    """Return `1 tunnel` or `2 tunnels`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seconds_since(moment: str | None, now: datetime) -> float | None:
    """Return the seconds from an ISO time to `now`: negative for the future, None if there is no time."""
    if not moment:
        return None
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


def span(seconds: float | None) -> str:
    """Format seconds as `12s`, `5m`, `3h`, `2d`; "" for None."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    for size, unit in _UNITS:
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def size(number: int) -> str:
    """Format bytes as `812B`, `1.2K`, `34M`."""
    value = float(number)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.1f}{unit}" if value < 10 and unit != "B" else f"{value:.0f}{unit}"
        value /= 1024
    raise AssertionError
