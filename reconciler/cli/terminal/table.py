"""Text for terminals: tables and sentences that fit their width, colour where it is wanted, times and sizes for people.

Owns what the terminal is told: everything from elsewhere is shown with the characters escaped that are not visible.
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

from reconciler.core.printable import printable
from reconciler.system.redaction import redact

_GAP = "  "
_WIDEST = 100  # columns that are still pleasant to read sentences in
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Column:
    """`least`: it may be cut down to this width, 0 never. `extra`: shown only where nothing has to be cut for it."""

    title: str
    right: bool = False
    least: int = 0
    extra: bool = False


class Cell(NamedTuple):
    text: str
    colour: str = ""


def width() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere and need not be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def is_coloured() -> bool:
    """Only a terminal, and only if nobody asked for none (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def painted(text: str, colour: str) -> str:
    return click.style(text, fg=colour) if colour and is_coloured() else text


def clean(text: str) -> str:
    """Text from servers, clients and files: it cannot drive the terminal, hide, or show a variable's value."""
    return printable(redact(text))


def wrapped(text: str, limit: int | None, indent: str = "  ", first: str | None = None) -> list[str]:
    """Broken only between words, so that addresses and commands can be copied. `first`: the first line's indent."""
    first = indent if first is None else first
    if limit is None:
        return [first + text]
    return textwrap.wrap(
        text,
        min(limit, _WIDEST),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def complain(kind: str, said: object, file: IO[Any] | None = None) -> None:
    """`error: …` or `warning: …`, on stderr. One line each where programs read it, whatever $COLUMNS says."""
    stream = file or sys.stderr  # None: it is closed
    limit = shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None
    click.echo("\n".join(wrapped(clean(f"{kind}: {said}"), limit, first="")), file=file, err=file is None)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], limit: int | None) -> list[str]:
    """Lines, aligned, the titles first; cut in the middle where they would not fit `limit`."""
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
    """Take from the widest column that may be cut, until it fits."""
    while _total(widths, shown) > limit:
        cuttable = [n for n in shown if columns[n].least and widths[n] > columns[n].least]
        if not cuttable:
            return
        widths[max(cuttable, key=lambda number: widths[number])] -= 1


def _fit(cell: Cell, size: int, right: bool) -> str:
    text = shortened(cell.text, size)
    padded = text.rjust(size) if right else text.ljust(size)
    return padded.replace(text, painted(text, cell.colour), 1) if cell.colour and text else padded


def shortened(text: str, size: int) -> str:
    """Cut in the middle: the beginning of a name and the port at its end tell most."""
    if len(text) <= size:
        return text
    mark = "…" if is_unicode() else "~"
    end = (size - 1) // 2
    return text[: size - 1 - end] + mark + text[len(text) - end :]


def count(number: int, noun: str) -> str:
    """`1 tunnel`, `2 tunnels`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seconds_since(moment: str | None, now: datetime) -> float | None:
    """From an ISO moment to now; negative for the future, None where there is none."""
    if not moment:
        return None
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


def span(seconds: float | None) -> str:
    """`12s`, `5m`, `3h`, `2d`; "" for none."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    for size, unit in _UNITS:
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def size(number: int) -> str:
    """Bytes as `812B`, `1.2K`, `34M`."""
    value = float(number)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.1f}{unit}" if value < 10 and unit != "B" else f"{value:.0f}{unit}"
        value /= 1024
    raise AssertionError
