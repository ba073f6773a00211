"""The targets and tunnels of a status as tables. A table that is too high shows the most important rows first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.cli.responses import StatusJson, TargetJson, TunnelJson
from reconciler.cli.terminal.table import Cell, Column, count, is_unicode, seconds_since, size, span, table

NOT_EXPECTED_UP = frozenset({"off", "standby", "draining"})  # phases in which a tunnel is not up and need not be
_COLOURS = {"up": "green", "down": "red", "unhealthy": "red", "off": "bright_black", "draining": "bright_black"}
# The importance of a phase; 0 is the most important. A phase that is not listed is that of a subject on its way up.
_RANKS = {"down": 1, "unhealthy": 1, "draining": 4, "standby": 5, "up": 6, "off": 7}
_NEEDS_ACTION, _OF_ITS_TARGET, _ON_ITS_WAY = 0, 2, 3
_WAITS = {"reconnect": " (backoff)", "certificate": " (certificate)"}

_TARGETS = (
    Column("TARGET", least=8),
    Column("STATE"),
    Column("HOST", least=12, leaves=3),
    Column("ROUND TRIP", right=True, leaves=1),
    Column("SINCE", right=True, leaves=2),
    Column("NEXT TRY"),
)
_TUNNELS = (
    Column("TUNNEL", least=16),
    Column("STATE"),
    Column("LISTENS ON", least=21, leaves=4),  # fits a port range on 127.0.0.1, which must not be cut
    Column("LEADS TO", least=11, leaves=1),
    Column("CLIENTS", right=True, leaves=3),
    Column("SINCE", right=True, leaves=2),
    Column("SENT", right=True, extra=True),
    Column("RECEIVED", right=True, extra=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One target or tunnel. `state` is counted if the row is not shown; `rank` is 0 for the most important."""

    cells: Sequence[Cell]
    state: str
    rank: int


@dataclass(frozen=True, slots=True)
class StatusTable:
    """Rows of targets or tunnels, which `noun` names."""

    noun: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]

    @property
    def height(self) -> int:
        """The lines of the whole table."""
        return len(self.rows) + 1 if self.rows else 0

    @property
    def troubled(self) -> int:
        """The number of rows that have a problem of their own."""
        return sum(row.rank < _OF_ITS_TARGET for row in self.rows)

    def lines(self, width: int | None, height: int | None = None) -> list[str]:
        """Return the table. If it is higher than `height`, the last line counts the rows that are left out."""
        if height is None or self.height <= height:
            return self._table(self.rows, width)
        rows = sorted(self.rows, key=lambda row: row.rank)
        places = max(height - 2, 0)  # beside the titles and the count
        shown = self._table(rows[:places], width)
        states = Counter(row.state for row in rows[places:])
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        return [*shown, and_more(f"{count(len(rows) - places, f'more {self.noun}')}: {counts}")]

    def _table(self, rows: Sequence[Row], width: int | None) -> list[str]:
        """Return the rows without the columns that are empty in all of them."""
        used = [number for number in range(len(self.columns)) if any(row.cells[number].text for row in rows)]
        columns = [self.columns[number] for number in used]
        return table(columns, [[row.cells[number] for number in used] for row in rows], width) if rows else []


def and_more(what: str) -> str:
    """Return the line about what is not shown."""
    return f"{'…' if is_unicode() else '...'} and {what}"


def colour_of(phase: str) -> str:
    """Return the colour of a phase."""
    return _COLOURS.get(phase, "yellow")


def state_of(one: TargetJson | TunnelJson) -> str:
    """Return the phase or, for a target or tunnel that is off, why it is, such as "paused"."""
    return one.get("off", "off") if one["phase"] == "off" else one["phase"]


def source_of(tunnel: TunnelJson, target: TargetJson | None) -> TunnelJson | TargetJson:
    """Return what the tunnel's problem is about: its target, if that has the same message, or else itself."""
    return target if target is not None and target["message"] == tunnel["message"] else tunnel


def target_table(status: StatusJson, now: datetime) -> StatusTable:
    return StatusTable("target", _TARGETS, [_target_row(target, now) for target in status["targets"]])


def tunnel_table(status: StatusJson, now: datetime) -> StatusTable:
    targets = {target["name"]: target for target in status["targets"]}
    rows = [_tunnel_row(tunnel, targets.get(tunnel["target"]), now) for tunnel in status["tunnels"]]
    return StatusTable("tunnel", _TUNNELS, rows)


def _target_row(target: TargetJson, now: datetime) -> Row:
    cells = [
        Cell(target["name"]),
        Cell(state_of(target), colour_of(target["phase"])),
        Cell(_host(target)),
        Cell(_round_trip(target.get("rttSeconds"))),
        Cell(span(seconds_since(target["since"], now))),
        Cell(_next_try(target, now)),
    ]
    return Row(cells, state_of(target), _rank(target))


def _host(target: TargetJson) -> str:
    """Return the host in use, or the only one; with several hosts, which of them it is."""
    host, hosts = target["host"] or "", target.get("hosts", [])
    if len(hosts) < 2:
        return host or "".join(hosts)
    return f"{host} ({hosts.index(host) + 1} of {len(hosts)})" if host in hosts else f"none of {len(hosts)}"


def _round_trip(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f}ms"


def _next_try(target: TargetJson, now: datetime) -> str:
    """Return when the next try is due and, in a word, why it is not soon."""
    since = seconds_since(target["nextTryAt"], now)
    if since is not None:
        why = " (needs action)" if target["needsAction"] else _WAITS.get(target.get("nextTryWait") or "", "")
        return "now" if since >= 0 else f"in {span(1 - since)}{why}"
    if target["needsAction"]:
        return "after a fix"
    return "with a client" if target["phase"] == "standby" else ""


def _tunnel_row(tunnel: TunnelJson, target: TargetJson | None, now: datetime) -> Row:
    phase = tunnel["phase"]
    cells = [
        Cell(tunnel["id"]),
        Cell(state_of(tunnel), colour_of(phase)),
        Cell(_listen(tunnel)),
        Cell("(SOCKS)" if tunnel["type"] == "socks" else tunnel["dial"]),
        Cell(str(tunnel["connections"])),
        Cell(span(seconds_since(tunnel["since"], now))),
        Cell(size(tunnel["bytesSent"])),
        Cell(size(tunnel["bytesReceived"])),
    ]
    # The target's row and problem say what is wrong with the tunnels that are down with it.
    is_of_target = phase == "down" and source_of(tunnel, target) is target
    return Row(cells, state_of(tunnel), _OF_ITS_TARGET if is_of_target else _rank(tunnel))


def _rank(one: TargetJson | TunnelJson) -> int:
    return _NEEDS_ACTION if one["needsAction"] else _RANKS.get(one["phase"], _ON_ITS_WAY)


def _listen(tunnel: TunnelJson) -> str:
    """Return the listen address. For a remote tunnel it is on the server, and the id has the name of that."""
    address = tunnel["listen"]
    if address.endswith(":0"):
        address = f"{address[:-1]}any"
    if tunnel["type"] != "remote":
        return address
    return f"(server){address.removeprefix('127.0.0.1').removeprefix('localhost')}"
