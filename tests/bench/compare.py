"""Compares two runs (`make bench-compare OLD=a.json NEW=b.json`) and fails if a figure of this program got worse.

Where ssh was measured in the same case, the ratios to it are compared, because the machine's load differs between runs.
Worse is a difference of more than 10 % that is also larger than the spread of the values.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.figures import OURS, REFERENCE, Figure, Figures
from bench.report import by_measurement, number

TOLERATED = 0.1


@dataclass(frozen=True, slots=True)
class Range:
    """The median, and the least and the greatest value."""

    median: float
    low: float
    high: float


def relative(figure: Figure, row: list[Figure]) -> Range:
    """Return a figure as a ratio to the median of ssh in the same case, or as it is without one."""
    by = next((one.median for one in row if one.key.program == REFERENCE), 0.0) or 1.0
    return Range(figure.median / by, min(figure.values) / by, max(figure.values) / by)


def is_worse(old: Range, new: Range, *, more_is_better: bool) -> bool:
    if more_is_better:
        return new.median < old.median * (1 - TOLERATED) and new.median < old.low
    return new.median > old.median * (1 + TOLERATED) and new.median > old.high


def compare(old: Figures, new: Figures) -> tuple[str, int]:
    """Return the table and how many figures are worse."""
    lines, worse = ["| measurement | case | old | new | change | |", "|---|---|---|---|---|---|"], 0
    before = by_measurement(old)
    for name, rows in by_measurement(new).items():
        for case, row in rows.items():
            was = before.get(name, {}).get(case, [])
            ours = [one for figures in (was, row) for one in figures if one.key.program == OURS]
            if len(ours) != 2:
                continue
            first, second = relative(ours[0], was), relative(ours[1], row)
            bad = is_worse(first, second, more_is_better=ours[1].key.more_is_better)
            worse += bad
            change = f"{(second.median / first.median - 1) * 100:+.0f} %" if first.median else ""
            has_reference = any(one.key.program == REFERENCE for one in row)
            unit = f"x of {REFERENCE}" if has_reference else ours[1].key.unit
            values = f"{number(first.median)} | {number(second.median)} {unit}"
            lines.append(f"| {name} | {case} | {values} | {change} | {'worse' * bad} |")
    return "\n".join(lines), worse


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: make bench-compare OLD=a.json NEW=b.json", file=sys.stderr)
        return 2
    table, worse = compare(*(Figures.load(Path(name)) for name in sys.argv[1:]))
    print(table)
    print(f"\n{worse} worse" if worse else "\nnone worse")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
