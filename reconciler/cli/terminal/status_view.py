"""The status as text: a table of tunnels, a paragraph for each problem, and one summary line.

Pure. Input: status, time, width. Output: lines. A problem that several tunnels share (their target is down) is one
paragraph.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from reconciler.cli.responses import ConfigJson, StatusJson, TargetJson, TunnelJson
from reconciler.cli.terminal.table import (
    Cell,
    Column,
    clean,
    coloured,
    count,
    is_unicode,
    seconds_since,
    size,
    span,
    table,
    wrapped,
)
from reconciler.core.status import NEEDS_ACTION_TEXT
from reconciler.core.text.forms import and_more

NOT_EXPECTED_UP = frozenset({"off", "standby", "draining"})  # phases in which a tunnel is not up and need not be
_FAILED = frozenset({"down", "unhealthy"})
# Reasons after which a change of a file that the target names causes a try at once.
_RETRIED_ON_FILE_CHANGE = frozenset({"auth", "host_key", "certificate_expired", "secret_unreadable"})
_COLOURS = {"up": "green", "down": "red", "unhealthy": "red", "off": "bright_black", "draining": "bright_black"}
_NAMED = 3  # the most names in one paragraph

_COLUMNS = (
    Column("TUNNEL", least=16),
    Column("STATE"),
    Column("LISTENS ON", least=21),  # fits a port range on 127.0.0.1, which must not be cut
    Column("LEADS TO", least=11),
    Column("CLIENTS", right=True),
    Column("SINCE", right=True),
    Column("SENT", right=True, extra=True),
    Column("RECEIVED", right=True, extra=True),
)


def is_healthy(tunnel: TunnelJson) -> bool:
    """Return True if the tunnel is up or need not be."""
    return tunnel["up"] or tunnel["phase"] in NOT_EXPECTED_UP


def lines(status: StatusJson, now: datetime, width: int | None, height: int | None = None) -> list[str]:
    """Return all lines. If `height` is too small, healthy tunnels are left out first, then the end."""
    tunnels, targets = status["tunnels"], status["targets"]
    end = [*_problems(status, now, width), *_of_targets(status, now, width), *_unverified(targets, width)]
    end += [*_config(status["config"], width), *_fault(status, width), *_summary(status, now, width)]
    shown: Sequence[TunnelJson] = tunnels
    if height is not None and len(tunnels) + len(end) + 1 > height:
        shown = [tunnel for tunnel in tunnels if not is_healthy(tunnel)]
    rows = [_row(tunnel, now) for tunnel in shown]
    head = table(_COLUMNS, rows, width) if rows else []
    hidden = len(tunnels) - len(shown)
    rest = [_and_more(f"{hidden} healthy {'tunnel' if hidden == 1 else 'tunnels'}")] if hidden else []
    result = [*head, *rest, *([""] if head or rest else []), *end]
    if height is None or len(result) <= height:
        return result
    return [*result[: height - 1], _and_more(f"{len(result) - height + 1} more lines")]


def _and_more(what: str) -> str:
    return f"{'…' if is_unicode() else '...'} and {what}"


def _is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def _row(tunnel: TunnelJson, now: datetime) -> list[Cell]:
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


def _state(tunnel: TunnelJson) -> str:
    """Return the phase or, for a tunnel that is off, why it is, such as "paused"."""
    return tunnel.get("off", "off") if tunnel["phase"] == "off" else tunnel["phase"]


def _listen(tunnel: TunnelJson) -> str:
    """Return the listen address. For a remote tunnel it is on the server, whose name is already in the id."""
    address = tunnel["listen"]
    if address.endswith(":0"):
        address = f"{address[:-1]}any"
    if tunnel["type"] != "remote":
        return address
    return f"(server){address.removeprefix('127.0.0.1').removeprefix('localhost')}"


# --- problems ---------------------------------------------------------------------------------------------------


def _problems(status: StatusJson, now: datetime, width: int | None) -> list[str]:
    targets = {target["name"]: target for target in status["targets"]}
    groups: dict[tuple[str, ...], list[TunnelJson]] = {}
    for tunnel in status["tunnels"]:
        if tunnel["message"] not in (None, "", _state(tunnel)):
            key = (tunnel["target"], tunnel["phase"], tunnel["reason"] or "", tunnel["message"])
            groups.setdefault(key, []).append(tunnel)
    made = []
    for group in groups.values():
        source = _source(group[0], targets.get(group[0]["target"]))
        sentences = _sentences(group, source, now)
        made += [*_head(group, source, now, width), *(line for text in sentences for line in wrapped(text, width)), ""]
    return made


def _source(tunnel: TunnelJson, target: TargetJson | None) -> TunnelJson | TargetJson:
    """Return the target, which has the time of the next try, if its message is the same; else the tunnel."""
    return target if target is not None and target["message"] == tunnel["message"] else tunnel


def _head(tunnels: list[TunnelJson], source: TunnelJson | TargetJson, now: datetime, width: int | None) -> list[str]:
    """Return `prod/a (PostgreSQL), prod/b have been down for 12s (refused):`."""
    one, several = tunnels[0], len(tunnels) > 1
    names = and_more([_name(tunnel) for tunnel in tunnels], _NAMED)
    if len(tunnels) > _NAMED:
        names += f" of {one['target']}"
    duration = span(seconds_since(one["since"], now)) if one["phase"] in _FAILED else ""
    if duration:
        state = f"{'have' if several else 'has'} been {one['phase']} for {duration}"
    else:
        state = f"{_is_are(len(tunnels))} {one['phase']}"
    return _headline(names, state, source, width)


def _headline(names: str, state: str, source: TunnelJson | TargetJson, width: int | None) -> list[str]:
    state += f" ({source['reason']})" if source["reason"] else ""
    colour = _COLOURS.get(source["phase"], "yellow")
    text = f"{clean(names)} {state}:"
    return [line.replace(state, coloured(state, colour)) for line in wrapped(text, width, indent="")]


def _name(tunnel: TunnelJson) -> str:
    description = tunnel.get("description")
    return f"{tunnel['id']} ({description})" if description else tunnel["id"]


def _sentences(tunnels: list[TunnelJson], source: TunnelJson | TargetJson, now: datetime) -> list[str]:
    """Return the message, the number of held clients, whether a person must act, and the time of the next try."""
    sentences = [clean(source["message"] or "")]
    if held := sum(tunnel["held"] for tunnel in tunnels):
        sentences.append(f"{count(held, 'client')} {_is_are(held)} waiting for it.")
    if source["needsAction"]:
        sentences.append(NEEDS_ACTION_TEXT)
    if next_try := _next_try(source, now):
        sentences.append(next_try)
    return sentences


def _next_try(source: TunnelJson | TargetJson, now: datetime) -> str:
    since = seconds_since(source.get("nextTryAt"), now)
    if since is None:
        return ""
    if since >= 0:
        return "Trying again now."
    early = "; at once when a file that it names changes" if source["reason"] in _RETRIED_ON_FILE_CHANGE else ""
    return f"Next try in {span(1 - since)}{early}."


def _of_targets(status: StatusJson, now: datetime, width: int | None) -> list[str]:
    """Return the messages of targets that are up, if none of their tunnels has the same message."""
    shown = {(tunnel["target"], tunnel["message"]) for tunnel in status["tunnels"]}
    made = []
    for target in status["targets"]:
        if target["phase"] == "up" and target["message"] and (target["name"], target["message"]) not in shown:
            body = [line for text in _sentences([], target, now) for line in wrapped(text, width)]
            made += [*_headline(target["name"], "is up", target, width), *body, ""]
    return made


def _unverified(targets: Sequence[TargetJson], width: int | None) -> list[str]:
    names = [clean(target["name"]) for target in targets if target.get("hostKeyVerified") is False]
    if not names:
        return []
    text = (
        f"{and_more(names, _NAMED)}: host key NOT checked (strictHostKeyChecking: false), "
        "so the server may be an impostor."
    )
    return [*(coloured(line, "yellow") for line in wrapped(text, width, indent="")), ""]


# --- files and summary -------------------------------------------------------------------------------------------


def _config(config: ConfigJson, width: int | None) -> list[str]:
    made = []
    for file in config["files"]:
        if not file["valid"]:
            made += [f"{clean(file['path'])} {coloured('is invalid', 'red')}: its last valid content stays in use."]
            made += [*wrapped(clean(file["error"] or ""), width), ""]
    return made


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
