"""The figures as Markdown tables and as SVG plots: one for each measurement."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.figures import REFERENCE, Figure, Figures

COLOURS = {"tunnels": "#0a66c2", "asyncssh": "#c28a0a", "ssh": "#6b7280", "autossh": "#b0b5bd"}
LABEL, BAR, ROW, WIDTH = 330, 360, 16, 820  # pixels


def markdown(figures: Figures) -> str:
    """Return the facts and a table for each measurement: medians, and the ratio to ssh."""
    lines = [f"{name}: {value}  " for name, value in figures.facts.items()]
    for name, rows in by_measurement(figures).items():
        programs = list(dict.fromkeys(figure.key.program for row in rows.values() for figure in row))
        unit = next(iter(rows.values()))[0].key.unit
        lines += ["", f"### {name} ({unit})", "", f"| | {' | '.join(programs)} |", "|---" * (len(programs) + 1) + "|"]
        for case, row in rows.items():
            cells = {figure.key.program: _cell(figure, row) for figure in row}
            lines.append(f"| {case} | {' | '.join(cells.get(program, '') for program in programs)} |")
    return "\n".join(lines) + "\n"


def _cell(figure: Figure, row: Sequence[Figure]) -> str:
    ratio = ratio_to_reference(figure, row)
    return number(figure.median) + (f" ({ratio:.2f}x)" if ratio is not None else "")


def ratio_to_reference(figure: Figure, row: Sequence[Figure]) -> float | None:
    """Return the ratio of the median to that of ssh, or None for ssh itself and where there is none."""
    reference = next((one.median for one in row if one.key.program == REFERENCE), 0.0)
    return figure.median / reference if reference and figure.key.program != REFERENCE else None


def number(value: float) -> str:
    """Return a number with three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def by_measurement(figures: Figures) -> dict[str, dict[str, list[Figure]]]:
    """Return the figures by measurement, then by case."""
    found = dict[str, dict[str, list[Figure]]]()
    for figure in figures:
        found.setdefault(figure.key.measurement, {}).setdefault(figure.key.case, []).append(figure)
    return found


def svg(name: str, rows: dict[str, list[Figure]]) -> str:
    """Return a bar for each program in each case: the median, and a line from the least to the greatest value."""
    first = next(iter(rows.values()))[0].key
    most = max((value for row in rows.values() for figure in row for value in figure.values), default=0.0) or 1.0
    better = "more is better" if first.more_is_better else "less is better"
    parts, y = [f'<text x="0" y="14" font-weight="bold">{escape(name)}, {first.unit}: {better}</text>'], 36
    for case, row in rows.items():
        parts.append(f'<text x="0" y="{y + 11}">{escape(case)}</text>')
        for figure in row:
            width, low, high = (BAR * value / most for value in (figure.median, min(figure.values), max(figure.values)))
            parts += [
                f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="12" fill="{COLOURS[figure.key.program]}"/>',
                f'<line x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{y + 6}" y2="{y + 6}" stroke="#000"/>',
                f'<text x="{LABEL + high + 6:.1f}" y="{y + 11}">{figure.key.program} {number(figure.median)}</text>',
            ]
            y += ROW
        y += 8
    style = 'font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" {style}>'
    return f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
