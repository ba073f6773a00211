"""The problems of a status as paragraphs. A problem that several tunnels share (their target is down) is one paragraph.

Pure. Input: status, time, width. Output: paragraphs, the most important first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.cli.responses import ClientFailureJson, StatusJson, TargetJson, TunnelJson
from reconciler.cli.terminal.status_tables import colour_of, source_of, state_of
from reconciler.cli.terminal.table import clean, coloured, count, seconds_since, span, wrapped
from reconciler.core.status import NEEDS_ACTION_TEXT
from reconciler.core.text.forms import and_more

_FAILED = frozenset({"down", "unhealthy"})
# Reasons after which a change of a file that the target names causes a try at once.
_RETRIED_ON_FILE_CHANGE = frozenset({"auth", "host_key", "certificate_expired", "secret_unreadable"})
_WAITS = {
    "quick": ": after at most a tenth of the outage",
    "reconnect": ": `reconnect` sets the delay, which grows with each failure",
    "guarded": ": servers block clients that repeat failed logins",
    "certificate": ", when the certificate becomes valid",
}
_SOON = 5.0  # seconds: a next try that is not further away needs no explanation
_NAMED = 3  # the most names in one paragraph
_FAILURES = 5  # the most client failures of tunnels without a problem
_FILE, _NEEDS_ACTION, _DOWN, _DEGRADED, _UNVERIFIED, _NOTE, _CLIENT = range(7)  # from the most important on


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One problem. `rank` is 0 for the most important. No empty line separates two that are compact."""

    rank: int
    lines: Sequence[str]
    is_compact: bool = False


def joined(paragraphs: Sequence[Paragraph]) -> list[str]:
    """Return the lines of paragraphs, with an empty line after each that the next one does not continue."""
    made: list[str] = []
    for number, paragraph in enumerate(paragraphs, 1):
        made += paragraph.lines
        if not (paragraph.is_compact and number < len(paragraphs) and paragraphs[number].is_compact):
            made.append("")
    return made


def problems(status: StatusJson, now: datetime, width: int | None) -> list[Paragraph]:
    """Return a paragraph for each problem and note, the most important first."""
    made = [
        *_invalid_files(status, width),
        *_of_tunnels(status, now, width),
        *_of_targets(status, now, width),
        *_unverified(status["targets"], width),
        *_client_failures(status, now, width),
    ]
    return sorted(made, key=lambda paragraph: paragraph.rank)


def _invalid_files(status: StatusJson, width: int | None) -> Iterator[Paragraph]:
    for file in status["config"]["files"]:
        if not file["valid"]:
            head = f"{clean(file['path'])} {coloured('is invalid', 'red')}: its last valid content stays in use."
            yield Paragraph(_FILE, [head, *wrapped(clean(file["error"] or ""), width)])


# --- targets and tunnels ------------------------------------------------------------------------------------------


def _of_tunnels(status: StatusJson, now: datetime, width: int | None) -> Iterator[Paragraph]:
    targets = {target["name"]: target for target in status["targets"]}
    groups: dict[tuple[str, ...], list[TunnelJson]] = {}
    for tunnel in status["tunnels"]:
        if _has_problem(tunnel):
            key = (tunnel["target"], tunnel["phase"], tunnel["reason"] or "", tunnel["message"] or "")
            groups.setdefault(key, []).append(tunnel)
    for group in groups.values():
        source = source_of(group[0], targets.get(group[0]["target"]))
        names = and_more([_name(tunnel) for tunnel in group], _NAMED)
        if len(group) > _NAMED:
            names += f" of {group[0]['target']}"
        yield _paragraph(names, len(group), group[0], source, _sentences(group, source, now), now, width)


def _of_targets(status: StatusJson, now: datetime, width: int | None) -> Iterator[Paragraph]:
    """Yield the messages of targets that none of their tunnels has."""
    shown = {(tunnel["target"], tunnel["message"]) for tunnel in status["tunnels"]}
    for target in status["targets"]:
        is_off = target["phase"] == "off"  # as its tunnels are, which say why
        if not is_off and _has_problem(target) and (target["name"], target["message"]) not in shown:
            yield _paragraph(target["name"], 1, target, target, _sentences([], target, now), now, width)


def _has_problem(one: TargetJson | TunnelJson) -> bool:
    return one["message"] not in (None, "", state_of(one))


def _paragraph(
    names: str,
    number: int,
    one: TargetJson | TunnelJson,
    source: TargetJson | TunnelJson,
    sentences: Iterable[str],
    now: datetime,
    width: int | None,
) -> Paragraph:
    """Return `prod/a (PostgreSQL), prod/b have been down for 12s (refused):`, and the sentences below it."""
    duration = span(seconds_since(one["since"], now)) if one["phase"] in _FAILED else ""
    if duration:
        state = f"{'has' if number == 1 else 'have'} been {one['phase']} for {duration}"
    else:
        state = f"{_is_are(number)} {one['phase']}"
    state += f" ({source['reason']})" if source["reason"] else ""
    head = wrapped(f"{clean(names)} {state}:", width, indent="")
    head = [line.replace(state, coloured(state, colour_of(source["phase"]))) for line in head]
    return Paragraph(_rank(source), [*head, *(line for text in sentences for line in wrapped(text, width))])


def _rank(source: TargetJson | TunnelJson) -> int:
    if source["needsAction"]:
        return _NEEDS_ACTION
    if source["phase"] == "down":
        return _DOWN
    return _DEGRADED if source["reason"] else _NOTE


def _is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def _name(tunnel: TunnelJson) -> str:
    description = tunnel.get("description")
    return f"{tunnel['id']} ({description})" if description else tunnel["id"]


def _sentences(tunnels: Sequence[TunnelJson], source: TunnelJson | TargetJson, now: datetime) -> Iterator[str]:
    """Yield the message, the clients that wait or failed, whether a person must act, and the time of the next try."""
    message = source["message"] or ""
    yield clean(message)
    if held := sum(tunnel["held"] for tunnel in tunnels):
        yield f"{count(held, 'client')} {_is_are(held)} waiting for it."
    if failures := _newest_first(tunnels):
        _, failure = failures[0]
        why = "" if failure["message"] in message else f": {clean(failure['message'])}"
        yield f"Last client failure {_when_and_where(failure, now)}{why or '.'}"
    if source["needsAction"]:
        yield NEEDS_ACTION_TEXT
    if next_try := _next_try(source, now):
        yield next_try


def _next_try(source: TunnelJson | TargetJson, now: datetime) -> str:
    since = seconds_since(source.get("nextTryAt"), now)
    if since is None:
        return ""
    if since >= 0:
        return "Trying again now."
    why = _WAITS.get(source.get("nextTryWait") or "", "") if since < -_SOON else ""
    early = "; at once when a file that it names changes" if source["reason"] in _RETRIED_ON_FILE_CHANGE else ""
    return f"Next try in {span(1 - since)}{why}{early}."


def _unverified(targets: Sequence[TargetJson], width: int | None) -> Iterator[Paragraph]:
    names = [clean(target["name"]) for target in targets if target.get("hostKeyVerified") is False]
    if names:
        text = (
            f"{and_more(names, _NAMED)}: host key NOT checked (strictHostKeyChecking: false), "
            "so the server may be an impostor."
        )
        yield Paragraph(_UNVERIFIED, [coloured(line, "yellow") for line in wrapped(text, width, indent="")])


# --- clients ------------------------------------------------------------------------------------------------------


def _client_failures(status: StatusJson, now: datetime, width: int | None) -> Iterator[Paragraph]:
    """Yield the last client failure of each tunnel without a problem, the newest first."""
    found = _newest_first([tunnel for tunnel in status["tunnels"] if not _has_problem(tunnel)])
    for number, (tunnel, failure) in enumerate(found[:_FAILURES]):
        text = f"{tunnel['id']} {_when_and_where(failure, now)}: {clean(failure['message'])}"
        head = ["Last client failures:"] if number == 0 else []
        yield Paragraph(_CLIENT, [*head, *wrapped(text, width, indent="    ", first="  ")], is_compact=True)
    if len(found) > _FAILURES:
        yield Paragraph(_CLIENT, [f"  and {len(found) - _FAILURES} more, of other tunnels"], is_compact=True)


def _newest_first(tunnels: Sequence[TunnelJson]) -> list[tuple[TunnelJson, ClientFailureJson]]:
    found = [(tunnel, failure) for tunnel in tunnels if (failure := tunnel.get("lastClientFailure")) is not None]
    return sorted(found, key=lambda one: one[1]["at"], reverse=True)


def _when_and_where(failure: ClientFailureJson, now: datetime) -> str:
    return f"{span(seconds_since(failure['at'], now))} ago: {clean(failure['from'] or 'a client')}"
