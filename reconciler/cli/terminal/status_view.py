"""The status as text: tables of targets and tunnels, a paragraph for each problem, and one summary line.

Pure. Input: status, time, width, height. Output: lines. If they do not fit the height, the tables and the problems get
a share of it each, and each says how many of its rows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from reconciler.cli.responses import StatusJson, TunnelJson
from reconciler.cli.terminal.status_problems import Paragraph, joined, problems
from reconciler.cli.terminal.status_tables import NOT_EXPECTED_UP, StatusTable, and_more, target_table, tunnel_table
from reconciler.cli.terminal.table import clean, coloured, count, seconds_since, span, wrapped
from reconciler.cli.terminal.text_width import text_width

_FRAME = 3  # lines around the rows of a table: the titles, the count of the rows left out, an empty line


def is_healthy(tunnel: TunnelJson) -> bool:
    """Return True if the tunnel is up or need not be."""
    return tunnel["up"] or tunnel["phase"] in NOT_EXPECTED_UP


def lines(status: StatusJson, now: datetime, width: int | None, height: int | None = None) -> list[str]:
    """Return all lines, or the most important ones that fit the height."""
    targets, tunnels = target_table(status, now), tunnel_table(status, now)
    found = problems(status, now, width)
    end = [*_fault(status, width), *_summary(status, now, width)]
    whole = [*_block(targets.lines(width)), *_block(tunnels.lines(width)), *joined(found), *end]
    if height is None or _height(whole, width) <= height:
        return whole
    return _fitted(targets, tunnels, found, end, width, height)


def _fitted(
    targets: StatusTable,
    tunnels: StatusTable,
    found: Sequence[Paragraph],
    end: list[str],
    width: int | None,
    height: int,
) -> list[str]:
    """Return what fits. The targets that are down come first, then half of the height is for problems."""
    room = height - _height(end, width)
    of_targets, of_tunnels = (one.height + 1 if one.rows else 0 for one in (targets, tunnels))
    for_targets = min(of_targets, max(room // 4, min(targets.troubled + _FRAME, room * 2 // 5)))
    for_tunnels = min(of_tunnels, max(room // 5, _FRAME + 1))
    for_problems = max(min(room // 2, room - for_targets - for_tunnels), room - for_targets - of_tunnels)
    shown = _most_important(found, for_problems, width)
    left = max(room - _height(shown, width), 0)
    for_tunnels = min(of_tunnels, max(left - for_targets, 0))
    for_targets = min(of_targets, left - for_tunnels)
    made = [
        *_block(targets.lines(width, for_targets - 1) if for_targets > 1 else []),
        *_block(tunnels.lines(width, for_tunnels - 1) if for_tunnels > 1 else []),
        *shown,
    ]
    while made and _height([*made, *end], width) > height:
        made.pop()
    return [*made, *end[:height]]


def _most_important(found: Sequence[Paragraph], height: int, width: int | None) -> list[str]:
    """Return the first paragraphs that fit, and a line that counts the others. The first one is cut if it must be."""
    for number in range(len(found), 0, -1):
        shown = [*joined(found[:number]), *_others(len(found) - number)]
        if _height(shown, width) <= height:
            return shown
    rest = ["", *_others(len(found) - 1)]
    return [*found[0].lines[: max(height - len(rest), 0)], *rest] if found else []


def _others(number: int) -> list[str]:
    return [and_more(count(number, "more problem")), ""] if number else []


def _block(block: list[str]) -> list[str]:
    """Return the lines of a table, and an empty line after them."""
    return [*block, ""] if block else []


def _height(block: Sequence[str], width: int | None) -> int:
    """Return the lines that a block takes on the terminal: an address that is wider than it goes on in the next."""
    return len(block) if not width else sum(max(1, -(-text_width(line) // width)) for line in block)


# --- summary ------------------------------------------------------------------------------------------------------


def _fault(status: StatusJson, width: int | None) -> list[str]:
    """Return the fault of the reconcile loop. The status is then as old as its last successful pass."""
    fault = status.get("fault", "")
    return [coloured(line, "red") for line in wrapped(f"{clean(fault)}.", width, indent="")] if fault else []


def _summary(status: StatusJson, now: datetime, width: int | None) -> list[str]:
    tunnels, config = status["tunnels"], status["config"]
    if status.get("ending"):
        return [coloured(_ending(sum(tunnel["connections"] for tunnel in tunnels)), "red")]
    wanted = [tunnel for tunnel in tunnels if tunnel["phase"] not in NOT_EXPECTED_UP]
    up, not_wanted = sum(tunnel["up"] for tunnel in wanted), len(tunnels) - len(wanted)
    if wanted:
        result = f"{count(up, 'tunnel')} up" if up == len(wanted) else f"{up} of {count(len(wanted), 'tunnel')} up"
    else:
        result = "No tunnel needs to be up" if tunnels else "No tunnels are configured"
    rest = f", {not_wanted} off or in standby" if not_wanted else ""
    loaded = span(seconds_since(config["loadedAt"], now))
    rest += f"; file read {loaded} ago" if loaded else ""
    rest += "" if config["converged"] else "; still converging"
    colour = ("green" if up == len(wanted) else "red") if wanted else ""
    text = f"{result}{rest}."
    return [line.replace(result, coloured(result, colour), 1) for line in wrapped(text, width, indent="")]


def _ending(clients: int) -> str:
    rest = f": it accepts no new clients, and {count(clients, 'client')} may finish" if clients else ""
    return f"The process is ending{rest}."
