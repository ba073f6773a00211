"""Text for terminals: tables and sentences that fit the width, colour, times and sizes for people.

Invisible characters of text from files, servers and clients are escaped here (`clean`).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

import click

from reconciler.cli.terminal.text_width import end_of, start_of, text_width, units
from reconciler.core.text.printable import printable
from reconciler.system.redaction import redact

_GAP = "  "
_SENTENCE_MAX = 100  # columns; longer lines are hard to read
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Column:
    """A table column.

    least     the width that it may be cut down to; 0: never cut
    extra     shown only if the table then still fits without cuts
    leaves    its place in the order in which columns leave a table that does not fit with all its cuts; 0: it stays
    """

    title: str
    right: bool = False
    least: int = 0
    extra: bool = False
    leaves: int = 0


class Cell(NamedTuple):
    text: str
    colour: str = ""


def width() -> int | None:
    """Return the columns of the terminal, None if the output is no terminal and is not cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def height() -> int | None:
    """Return the lines of the terminal above the one of the cursor, None if the output is no terminal."""
    return shutil.get_terminal_size().lines - 1 if sys.stdout.isatty() or os.environ.get("LINES") else None


def is_coloured(stream: IO[str] | None = None) -> bool:
    """Return True if the output (default: stdout) is a terminal and $NO_COLOR is not set (no-color.org)."""
    is_terminal = (sys.stdout if stream is None else stream).isatty()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def coloured(text: str, colour: str) -> str:
    return click.style(text, fg=colour) if colour and is_coloured() else text


def clean(text: str) -> str:
    """Escape invisible characters and redact secret values in text from servers, clients and files."""
    return printable(redact(text))


def wrapped(text: str, limit: int | None, indent: str = "  ", first: str | None = None) -> list[str]:
    """Wrap between words only, so that addresses and commands can be copied. `first` is the first line's indent."""
    line = indent if first is None else first
    if limit is None:
        return [line + text]
    limit, lines, is_empty = min(limit, _SENTENCE_MAX), [], True
    for word in text.split():
        for number, unit in enumerate(units(word)):
            gap = "" if is_empty or number else " "
            if not is_empty and text_width(line + gap + unit) > limit:
                lines.append(line)
                line, gap = indent, ""
            line += gap + unit
            is_empty = False
    return lines if is_empty else [*lines, line]


def print_message(kind: str, message: object, file: IO[Any] | None = None) -> None:
    """Print `error: ...` or `warning: ...` on stderr; one line if stderr is no terminal, whatever $COLUMNS is."""
    stream = file or sys.stderr  # None if stderr is closed
    limit = shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None
    click.echo("\n".join(wrapped(clean(f"{kind}: {message}"), limit, first="")), file=file, err=file is None)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], limit: int | None) -> list[str]:
    """Return aligned lines, titles first; cells are cut in the middle to fit `limit`."""
    cells = [[Cell(clean(cell.text), cell.colour) for cell in row] for row in rows]
    widths = [
        max([len(column.title), *(text_width(row[number].text) for row in cells)])
        for number, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if limit is not None:
        if _total(widths, shown) > limit:
            shown = [number for number in shown if not columns[number].extra]
            shown = _without_leaving(widths, shown, columns, limit)
        _shrink(widths, shown, columns, limit)
    titles = [Cell(column.title) for column in columns]
    return [_GAP.join(_fit(row[n], widths[n], columns[n].right) for n in shown).rstrip() for row in [titles, *cells]]


def _total(widths: list[int], shown: list[int]) -> int:
    return sum(widths[number] for number in shown) + len(_GAP) * (len(shown) - 1)


def _without_leaving(widths: list[int], shown: list[int], columns: Sequence[Column], limit: int) -> list[int]:
    """Return the columns that fit when all are cut as far as they may be."""
    least = [min(width, column.least or width) for width, column in zip(widths, columns, strict=True)]
    for leaving in sorted((n for n in shown if columns[n].leaves), key=lambda n: columns[n].leaves):
        if _total(least, shown) <= limit:
            break
        shown = [number for number in shown if number != leaving]
    return shown


def _shrink(widths: list[int], shown: list[int], columns: Sequence[Column], limit: int) -> None:
    """Narrow the widest column that may be cut, until the table fits."""
    while _total(widths, shown) > limit:
        cuttable = [n for n in shown if columns[n].least and widths[n] > columns[n].least]
        if not cuttable:
            return
        widths[max(cuttable, key=lambda number: widths[number])] -= 1


def _fit(cell: Cell, size: int, right: bool) -> str:
    text = shortened(cell.text, size)
    space = " " * (size - text_width(text))
    padded = space + text if right else text + space
    return padded.replace(text, coloured(text, cell.colour), 1) if cell.colour and text else padded


def shortened(text: str, size: int) -> str:
    """Cut in the middle: the start of a name and the port at its end are the most useful parts."""
    if text_width(text) <= size:
        return text
    mark = "…" if is_unicode() else "~"
    end = (size - 1) // 2
    return start_of(text, size - 1 - end) + mark + end_of(text, end)


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
