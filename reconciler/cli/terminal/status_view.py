"""The status as text: a table of tunnels, under it a paragraph for each trouble, and one line that sums it up.

Pure: status, time and width in, lines out. A trouble that many tunnels share (their target is down) is told once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from reconciler.cli.responses import Config, Status, Target, Tunnel
from reconciler.cli.terminal.table import (
    Cell,
    Column,
    clean,
    count,
    is_unicode,
    painted,
    seconds_since,
    size,
    span,
    table,
    wrapped,
)

NOT_ASKED_FOR = frozenset({"off", "standby", "draining"})  # not up, and not meant to be
_TROUBLE = frozenset({"down", "unhealthy"})
_READS_FILES = frozenset({"auth", "host_key", "certificate_expired", "secret_unreadable"})
_COLOURS = {"up": "green", "down": "red", "unhealthy": "red", "off": "bright_black", "draining": "bright_black"}
_NAMED = 3  # tunnels of one trouble that are named

_COLUMNS = (
    Column("TUNNEL", least=16),
    Column("STATE"),
    Column("LISTENS ON", least=21),  # a range on 127.0.0.1: cut, it would be another port's
    Column("LEADS TO", least=11),
    Column("CLIENTS", right=True),
    Column("SINCE", right=True),
    Column("SENT", right=True, extra=True),
    Column("RECEIVED", right=True, extra=True),
)


def is_fine(tunnel: Tunnel) -> bool:
    """Up, or not asked for."""
    return tunnel["up"] or tunnel["phase"] in NOT_ASKED_FOR


def lines(status: Status, now: datetime, width: int | None, height: int | None = None) -> list[str]:
    """All of it. `height`: what does not fit leaves out tunnels that are up, then the end."""
    tunnels, targets = status["tunnels"], status["targets"]
    end = [*_troubles(status, now, width), *_of_targets(status, now, width), *_unverified(targets, width)]
    end += [*_config(status["config"], width), *_fault(status, width), *_sum(status, now, width)]
    shown: Sequence[Tunnel] = tunnels
    if height is not None and len(tunnels) + len(end) + 1 > height:
        shown = [tunnel for tunnel in tunnels if not is_fine(tunnel)]
    rows = [_row(tunnel, now) for tunnel in shown]
    made = table(_COLUMNS, rows, width) if rows else []
    left = len(tunnels) - len(shown)
    rest = [_and_more(f"{count(left, 'tunnel')} that {_is_are(left)} well")] if left else []
    said = [*made, *rest, *([""] if made or rest else []), *end]
    if height is None or len(said) <= height:
        return said
    return [*said[: height - 1], _and_more(f"{len(said) - height + 1} more lines")]


def _and_more(what: str) -> str:
    return f"{'…' if is_unicode() else '...'} and {what}"


def _is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def _row(tunnel: Tunnel, now: datetime) -> list[Cell]:
    phase = tunnel["phase"]
    return [
        Cell(tunnel["id"]),
        Cell(_state(tunnel), _COLOURS.get(phase, "yellow")),
        Cell(_listen(tunnel)),
        Cell("(SOCKS)" if tunnel["type"] == "socks" else tunnel["dial"]),
        Cell(str(tunnel["connections"])),
        Cell(span(seconds_since(tunnel["since"], now))),
        Cell(size(tunnel["bytesSent"])),
        Cell(size(tunnel["bytesReceived"])),
    ]


def _state(tunnel: Tunnel) -> str:
    """Of one that is off, why, in a word: "paused" says more than "off"."""
    return (tunnel["message"] or "off").split()[0] if tunnel["phase"] == "off" else tunnel["phase"]


def _listen(tunnel: Tunnel) -> str:
    """Of a remote tunnel it is an address of the server, whose name stands in the id already."""
    address = tunnel["listen"]
    if address.endswith(":0"):
        address = f"{address[:-1]}any"
    if tunnel["type"] != "remote":
        return address
    return f"(server){address.removeprefix('127.0.0.1').removeprefix('localhost')}"


# --- what is wrong ----------------------------------------------------------------------------------------------


def _troubles(status: Status, now: datetime, width: int | None) -> list[str]:
    targets = {target["name"]: target for target in status["targets"]}
    groups: dict[tuple[str, ...], list[Tunnel]] = {}
    for tunnel in status["tunnels"]:
        if tunnel["message"] not in (None, "", _state(tunnel)):
            key = (tunnel["target"], tunnel["phase"], tunnel["reason"] or "", tunnel["message"])
            groups.setdefault(key, []).append(tunnel)
    made = []
    for group in groups.values():
        about = _source(group[0], targets.get(group[0]["target"]))
        said = _sentences(group, about, now)
        made += [*_head(group, about, now, width), *(line for text in said for line in wrapped(text, width)), ""]
    return made


def _source(tunnel: Tunnel, target: Target | None) -> Tunnel | Target:
    """Whose trouble it is: the target's, where the tunnel says the same. That one knows when it is tried again."""
    return target if target is not None and target["message"] == tunnel["message"] else tunnel


def _head(tunnels: list[Tunnel], about: Tunnel | Target, now: datetime, width: int | None) -> list[str]:
    """`prod/a (PostgreSQL), prod/b have been down for 12s (refused):`"""
    one, several = tunnels[0], len(tunnels) > 1
    names = ", ".join(map(_named, tunnels[:_NAMED]))
    if len(tunnels) > _NAMED:
        names += f" and {len(tunnels) - _NAMED} more of {one['target']}"
    lasted = span(seconds_since(one["since"], now)) if one["phase"] in _TROUBLE else ""
    if lasted:
        said = f"{'have' if several else 'has'} been {one['phase']} for {lasted}"
    else:
        said = f"{_is_are(len(tunnels))} {one['phase']}"
    return _headline(names, said, about, width)


def _headline(names: str, said: str, about: Tunnel | Target, width: int | None) -> list[str]:
    said += f" ({about['reason']})" if about["reason"] else ""
    colour = _COLOURS.get(about["phase"], "yellow")
    return [line.replace(said, painted(said, colour)) for line in wrapped(f"{clean(names)} {said}:", width, indent="")]


def _named(tunnel: Tunnel) -> str:
    description = tunnel.get("description")
    return f"{tunnel['id']} ({description})" if description else tunnel["id"]


def _sentences(tunnels: list[Tunnel], about: Tunnel | Target, now: datetime) -> list[str]:
    """What happened and what to do; who waits for it; whether a person is needed; when it is tried again."""
    said = [clean(about["message"] or "")]
    if held := sum(tunnel["held"] for tunnel in tunnels):
        said.append(f"{count(held, 'client')} {'waits' if held == 1 else 'wait'} for it.")
    if about["needsAction"]:
        said.append("This needs you: trying again will not help until something is changed.")
    if when := _next_try(about, now):
        said.append(when)
    return said


def _next_try(about: Tunnel | Target, now: datetime) -> str:
    since = seconds_since(about.get("nextTryAt"), now)
    if since is None:
        return ""
    if since >= 0:
        return "Trying again now."
    hurried = "; at once when a file that it names changes" if about["reason"] in _READS_FILES else ""
    return f"Next try in {span(1 - since)}{hurried}."


def _of_targets(status: Status, now: datetime, width: int | None) -> list[str]:
    """What targets that are up have to say and none of their tunnels does."""
    told = {(tunnel["target"], tunnel["message"]) for tunnel in status["tunnels"]}
    made = []
    for target in status["targets"]:
        if target["phase"] == "up" and target["message"] and (target["name"], target["message"]) not in told:
            said = [line for text in _sentences([], target, now) for line in wrapped(text, width)]
            made += [*_headline(target["name"], "is up", target, width), *said, ""]
    return made


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


def _fault(status: Status, width: int | None) -> list[str]:
    """What is shown is then as old as the last pass of the reconcile loop that did not fail."""
    said = status.get("fault", "")
    return [painted(line, "red") for line in wrapped(f"{clean(said)}.", width, indent="")] if said else []


def _sum(status: Status, now: datetime, width: int | None) -> list[str]:
    tunnels, config = status["tunnels"], status["config"]
    if status.get("ending"):
        return [painted(_ending(sum(tunnel["connections"] for tunnel in tunnels)), "red")]
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


def _ending(clients: int) -> str:
    may = f": {count(clients, 'client')} may finish, nobody new comes in" if clients else ""
    return f"The process is ending{may}."
