"""The status as text: a table of tunnels, under it a paragraph for each trouble, and one line that sums it up.

Pure: status, time and width in, lines out. A trouble that many tunnels share (their target is down) is told once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

from reconciler.cli.answers import Config, Status, Target, Tunnel
from reconciler.cli.table import Cell, Column, clean, count, is_unicode, painted, seconds_since, size, span, table

NOT_ASKED_FOR = frozenset({"off", "standby", "draining"})  # not up, and not meant to be
_TROUBLE = frozenset({"down", "unhealthy"})
_READS_FILES = frozenset({"auth", "host_key", "certificate_expired", "secret_unreadable"})
_COLOURS = {"up": "green", "down": "red", "unhealthy": "red", "off": "bright_black", "draining": "bright_black"}
_NAMED = 3  # tunnels of one trouble that are named
_WIDEST = 100  # columns that are still pleasant to read sentences in
_SHORT = 12  # a reason to be off that is so short ("paused") says more than "off"

_COLUMNS = (
    Column("TUNNEL", least=16),
    Column("STATE"),
    Column("LISTENS ON", least=12),
    Column("LEADS TO", least=12),
    Column("CLIENTS", right=True),
    Column("SINCE", right=True),
    Column("SENT", right=True, extra=True),
    Column("RECEIVED", right=True, extra=True),
)


def is_fine(tunnel: Tunnel) -> bool:
    """Up, or not asked for."""
    return tunnel["up"] or tunnel["phase"] in NOT_ASKED_FOR


def lines(status: Status, now: datetime, width: int | None, height: int | None = None) -> list[str]:
    """All of it. `height`: what does not fit leaves out tunnels that are up."""
    tunnels = status["tunnels"]
    end = [*_troubles(status, now, width), *_unverified(status["targets"], width), *_config(status["config"], width)]
    end += _sum(tunnels, status["config"], now, width)
    shown: Sequence[Tunnel] = tunnels
    if height is not None and len(tunnels) + len(end) + 1 > height:
        shown = [tunnel for tunnel in tunnels if not is_fine(tunnel)]
    rows = [_row(tunnel, now) for tunnel in shown]
    made = table(_COLUMNS, rows, width) if rows else []
    left = len(tunnels) - len(shown)
    rest = [f"{'…' if is_unicode() else '...'} and {count(left, 'tunnel')} that {_is_are(left)} well"] if left else []
    return [*made, *rest, *([""] if made or rest else []), *end]


def _is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def _row(tunnel: Tunnel, now: datetime) -> list[Cell]:
    phase, why = tunnel["phase"], tunnel["message"] or ""
    state = why if phase == "off" and 0 < len(why) <= _SHORT else phase
    return [
        Cell(tunnel["id"]),
        Cell(state, _COLOURS.get(phase, "yellow")),
        Cell(_listen(tunnel)),
        Cell("(SOCKS)" if tunnel["type"] == "socks" else tunnel["dial"]),
        Cell(str(tunnel["connections"])),
        Cell(span(seconds_since(tunnel["since"], now))),
        Cell(size(tunnel["bytesSent"])),
        Cell(size(tunnel["bytesReceived"])),
    ]


def _listen(tunnel: Tunnel) -> str:
    """Of a remote tunnel it is an address of the server; its name stands in the id already."""
    address = tunnel["listen"].removesuffix(f" on {tunnel['target']}")
    if address == tunnel["listen"]:
        return address
    return f"(server){address.removeprefix('127.0.0.1').removeprefix('localhost')}"


# --- what is wrong ----------------------------------------------------------------------------------------------


def _troubles(status: Status, now: datetime, width: int | None) -> list[str]:
    targets = {target["name"]: target for target in status["targets"]}
    groups: dict[tuple[str, ...], list[Tunnel]] = {}
    for tunnel in status["tunnels"]:
        if tunnel["message"] and tunnel["phase"] != "off":
            key = (tunnel["target"], tunnel["phase"], tunnel["reason"] or "", tunnel["message"])
            groups.setdefault(key, []).append(tunnel)
    made = []
    for group in groups.values():
        said = _sentences(group, targets.get(group[0]["target"]), now)
        made += [*_head(group, now, width), *(line for text in said for line in wrapped(text, width)), ""]
    return made


def _head(tunnels: list[Tunnel], now: datetime, width: int | None) -> list[str]:
    """`prod/a, prod/b have been down for 12s (refused):`"""
    one, several = tunnels[0], len(tunnels) > 1
    names = ", ".join(tunnel["id"] for tunnel in tunnels[:_NAMED])
    if len(tunnels) > _NAMED:
        names += f" and {len(tunnels) - _NAMED} more of {one['target']}"
    lasted = span(seconds_since(one["since"], now)) if one["phase"] in _TROUBLE else ""
    if lasted:
        said = f"{'have' if several else 'has'} been {one['phase']} for {lasted}"
    else:
        said = f"{_is_are(len(tunnels))} {one['phase']}"
    said += f" ({one['reason']})" if one["reason"] else ""
    colour = _COLOURS.get(one["phase"], "yellow")
    return [line.replace(said, painted(said, colour)) for line in wrapped(f"{clean(names)} {said}:", width, indent="")]


def _sentences(tunnels: list[Tunnel], target: Target | None, now: datetime) -> list[str]:
    """What happened and what to do; who waits for it; whether a person is needed; when it is tried again."""
    said = [clean(tunnels[0]["message"] or "")]
    if held := sum(tunnel["held"] for tunnel in tunnels):
        said.append(f"{count(held, 'client')} {'waits' if held == 1 else 'wait'} for it.")
    if tunnels[0]["needsAction"]:
        said.append("This needs you: trying again will not help until something is changed.")
    if when := _next_try(tunnels[0], target, now):
        said.append(when)
    return said


def wrapped(text: str, width: int | None, indent: str = "  ") -> list[str]:
    """Indented, and broken only between words, so that addresses and commands can be copied."""
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text,
        min(width, _WIDEST),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _next_try(tunnel: Tunnel, target: Target | None, now: datetime) -> str:
    at = tunnel.get("nextTryAt") or (target["nextTryAt"] if target and target["reason"] == tunnel["reason"] else None)
    since = seconds_since(at, now)
    if since is None:
        return ""
    if since >= 0:
        return "Trying again now."
    hurried = "; at once when a file that it names changes" if tunnel["reason"] in _READS_FILES else ""
    return f"Next try in {span(1 - since)}{hurried}."


def _unverified(targets: Sequence[Target], width: int | None) -> list[str]:
    names = [clean(target["name"]) for target in targets if target.get("hostKeyVerified") is False]
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    said = (
        f"{', '.join(names[:_NAMED])}{more}: host key NOT checked (strictHostKeyChecking: false), so it may be anybody."
    )
    return [*(painted(line, "yellow") for line in wrapped(said, width, indent="")), ""]


# --- the file, and the sum --------------------------------------------------------------------------------------


def _config(config: Config, width: int | None) -> list[str]:
    made = []
    for file in config["files"]:
        if not file["valid"]:
            made += [f"{clean(file['path'])} {painted('is not valid', 'red')}: what it said before still holds."]
            made += [*wrapped(clean(file["error"] or ""), width), ""]
    return made


def _sum(tunnels: Sequence[Tunnel], config: Config, now: datetime, width: int | None) -> list[str]:
    wanted = [tunnel for tunnel in tunnels if tunnel["phase"] not in NOT_ASKED_FOR]
    up, aside = sum(tunnel["up"] for tunnel in wanted), len(tunnels) - len(wanted)
    if wanted:
        said = f"{count(up, 'tunnel')} up" if up == len(wanted) else f"{up} of {count(len(wanted), 'tunnel')} up"
    else:
        said = "None is meant to be up" if tunnels else "No tunnels are asked for"
    rest = f", {aside} off or standing by" if aside else ""
    loaded = span(seconds_since(config["loadedAt"], now))
    rest += f"; file read {loaded} ago" if loaded else ""
    rest += "" if config["converged"] else "; still converging"
    colour = ("green" if up == len(wanted) else "red") if wanted else ""
    return [line.replace(said, painted(said, colour), 1) for line in wrapped(f"{said}{rest}.", width, indent="")]
