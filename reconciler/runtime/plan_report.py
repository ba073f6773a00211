"""Describes a plan: what each action does, to which target or tunnel, why, and how many live clients it affects.

Serves `tunnels plan`, for a running process and for two sets of files. The actions are the planner's own, carried out
in the simulator. Changes of a tunnel or target are named field by field, with the field names of the file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import cast

import yaml

from reconciler.config.effective_json import to_json
from reconciler.core.actions import ACCESS_CHANGED, Action, Assign, Dial, Tune, subject_of
from reconciler.core.observed import EMPTY, Now, Observed
from reconciler.core.plan import is_wanted
from reconciler.core.simulation.clients import Client
from reconciler.core.simulation.plan import SimulatedStep, apply_until_settled, converge, simulate_plan
from reconciler.core.simulation.simulator import Simulator
from reconciler.core.spec import Desired, Endpoint, TargetSettings, TargetSpec
from reconciler.core.subject import Subject
from reconciler.report.snapshot import Json
from reconciler.system.redaction import redact_json

_VALUE_MAX = 40  # characters shown of a value
_LIST_MAX = 100  # characters shown of a list or mapping


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step. `action` is the name of an action in lower case.

    `clients`: how many live clients it drains, cuts (also by a changed rule) or moves to another link.
    """

    action: str
    subject: Subject
    why: str
    clients: int

    def to_json(self) -> Json:
        return {"action": self.action, "subject": str(self.subject), "why": self.why, "clients": self.clients}


@dataclass(frozen=True, slots=True)
class PlanReport:
    """The steps in order. `clients`: how many live clients all steps affect, each counted once."""

    steps: tuple[PlanStep, ...]
    clients: int


def between(old: Desired, new: Desired) -> PlanReport:
    """Report what a process that has converged on `old` and has no clients would do with `new`."""
    now = Now(0.0, time.time())
    world = Simulator(EMPTY, now, instant=True)
    converge(world, old)
    return _report(old, new, apply_until_settled(world, new))


def report_plan(old: Desired, new: Desired, observed: Observed, now: Now) -> PlanReport:
    """Report what a process that works towards `old` would do with `new`."""
    report = _report(old, new, simulate_plan(new, observed, now))
    return replace(report, steps=(*_given_up(old, new, observed, now), *report.steps))


def _given_up(old: Desired, new: Desired, observed: Observed, now: Now) -> Iterator[PlanStep]:
    """Yield a step for each tunnel of `old` that never opened, and that `new` does not want at its address.

    There is no socket to close, so the planner has no action for it.
    """
    there = {(socket.owner.id, socket.key.listen) for socket in observed.sockets.values()}
    for tunnel in old.tunnels.values():
        if is_wanted(tunnel, old, now.wall) and (tunnel.id, tunnel.listen) not in there:
            successor = new.tunnels.get(tunnel.id)
            if successor is None or successor.listen != tunnel.listen or not is_wanted(successor, new, now.wall):
                yield PlanStep("close", Subject("tunnel", tunnel.id), "no tunnel needs it; it is not open yet", 0)


def _report(old: Desired, new: Desired, simulated: Iterable[SimulatedStep]) -> PlanReport:
    steps: list[PlanStep] = []
    affected: set[Client] = set()
    for step in simulated:
        action = step.action
        affected |= step.clients
        name = type(action).__name__.lower()
        steps.append(PlanStep(name, subject_of(action), _why(action, old, new), len(step.clients)))
    return PlanReport(tuple(steps), len(affected))


# --- why: changed fields, as the file names them ----------------------------------------------------------------


def _why(action: Action, old: Desired, new: Desired) -> str:
    match action:
        case Assign(tunnel=tunnel) if tunnel.id in old.tunnels and old.tunnels[tunnel.id] != tunnel:
            return f"{action.why}: {_changed(_of_tunnel(old, tunnel.id), _of_tunnel(new, tunnel.id))}"
        case Tune(target=name, settings=settings) if name in old.targets and name in new.targets:
            before = old.targets[name]
            settings = _fitting(settings, before)
            if before.settings == settings:  # only timeouts of jump hosts changed: `Dial` reports them
                return action.why
            return f"{action.why}: {_changed(_of_target(before), _of_target(replace(before, settings=settings)))}"
        case Dial(target=target) if target.name in old.targets and old.targets[target.name].access != target.access:
            before = old.targets[target.name]
            after = replace(before, access=target.access, settings=_fitting(before.settings, target))
            return f"{ACCESS_CHANGED}: {_changed(_of_target(before), _of_target(after))}"
        case _:
            return action.why


def _fitting(settings: TargetSettings, target: TargetSpec) -> TargetSettings:
    """Return `settings` with one connect timeout for each hop of `target`, which may have other jump hosts."""
    timeouts = target.settings.connect_timeouts
    if len(timeouts) == len(settings.connect_timeouts):
        return settings
    return replace(settings, connect_timeouts=(*timeouts[:-1], settings.connect_timeouts[-1]))


_Fields = Mapping[str, object]


def _of_target(target: TargetSpec) -> _Fields:
    [fields] = cast("dict[str, dict[str, object]]", to_json(Desired.of([target], []))["targets"]).values()
    return _redacted({field: value for field, value in fields.items() if field != "tunnels"})


def _of_tunnel(desired: Desired, name: str) -> _Fields:
    tunnel = desired.tunnels[name]
    content = to_json(Desired.of([desired.targets[tunnel.target]], [tunnel]))
    [target] = cast("dict[str, dict[str, list[dict[str, object]]]]", content["targets"]).values()
    [fields] = target["tunnels"]
    users = cast("list[dict[str, object]]", fields.get("auth", []))
    return _redacted(fields | ({"auth": {str(user["username"]): user["password"] for user in users}} if users else {}))


def _redacted(fields: _Fields) -> _Fields:
    """Redact the values before they are shortened: half a secret would not be recognised."""
    return cast("_Fields", redact_json(fields))


def _changed(one: _Fields, other: _Fields) -> str:
    """Return the changed fields as text: `remoteHost db1 -> db2, holdTimeout 10s -> 30s`."""
    if ("hosts" in one) != ("hosts" in other):
        one, other = _with_hosts(one), _with_hosts(other)
    changes = [text for field in {**one, **other} for text in _differences(field, one.get(field), other.get(field))]
    return ", ".join(changes) or "a secret in the file"  # redacted, the old and the new value look the same


def _with_hosts(fields: _Fields) -> _Fields:
    """Return the fields of a target with one host in the form for several hosts."""
    if "hosts" in fields:
        return fields
    host = Endpoint(str(fields["host"]), cast("int", fields["port"]))
    return {"hosts": [str(host)], **{name: value for name, value in fields.items() if name not in ("host", "port")}}


def _differences(name: str, one: object, other: object) -> Iterator[str]:
    """Yield `holdTimeout 10s -> 30s`; for long lists and mappings the parts: `health.interval 30s -> 1m`."""
    if one == other:
        return
    before, after = _shown(one), _shown(other)
    if len(before) <= _VALUE_MAX and len(after) <= _VALUE_MAX:
        yield f"{name} {before} -> {after}"
        return
    match one, other:
        case dict(), dict():
            for key in {**one, **other}:
                yield from _differences(f"{name}.{key}", one.get(key), other.get(key))
        case [dict(), *_], [dict(), *_] if len(one) == len(other):
            for number, (old, new) in enumerate(zip(one, other, strict=True)):
                yield from _differences(f"{name}[{number}]", old, new)
        case list(), list() if any(part in one for part in other):
            yield from _members(name, one, other)
        case str(), str():
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
            start = max(0, common - _VALUE_MAX // 2)  # skip the common prefix: both values could look the same
            yield f"{name} {_window(before, start)} -> {_window(after, start)}"
        case _:
            yield f"{name} {_shown(one, whole=False)} -> {_shown(other, whole=False)}"


def _members(name: str, one: Sequence[object], other: Sequence[object]) -> Iterator[str]:
    """Yield what was added to a list and what was removed, which is easier to read than two long lists."""
    for verb, parts in (
        ("added", [part for part in other if part not in one]),
        ("removed", [part for part in one if part not in other]),
    ):
        if parts:
            yield f"{name} {verb} {_shown(parts, whole=False)}"
    if all(part in one for part in other) and all(part in other for part in one):
        yield f"{name} reordered, {_shown(other[0], whole=False)} first"


# --- values -----------------------------------------------------------------------------------------------------


def _shown(value: object, *, whole: bool = True) -> str:
    """Format a value as in the file. Not `whole`: elide the middle of long texts and the end of long lists."""
    match value:
        case None | "":
            return "(none)"
        case list() | dict() if not value:
            return "(none)"
        case bool():
            return str(value).lower()
        case [one]:
            return _shown(one, whole=whole)
        case list() | dict():
            return _inside(value, whole)
        case _:
            return str(value) if whole else _elided(str(value))


def _inside(value: object, whole: bool) -> str:
    """Format a part of a list or mapping, quoted where YAML needs quotes."""
    match value:
        case list():
            return f"[{_joined([_inside(one, whole) for one in value], whole)}]"
        case dict():
            return f"{{{_joined([f'{key}: {_inside(one, whole)}' for key, one in value.items()], whole)}}}"
        case "***":  # a secret
            return "***"
        case _:
            return _scalar(value, whole)


def _scalar(value: object, whole: bool) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    text = text.removesuffix("\n").removesuffix("\n...")
    if text == value and any(mark in text for mark in ",[]{}"):
        text = f"'{text}'"
    return text if whole else _elided(text)


def _joined(parts: Sequence[str], whole: bool) -> str:
    fits = len(parts)
    while not whole and fits > 1 and sum(map(len, parts[:fits])) > _LIST_MAX:
        fits -= 1
    return ", ".join([*parts[:fits], *([f"{len(parts) - fits} more"] if fits < len(parts) else [])])


def _elided(text: str) -> str:
    """Elide the middle of a long text: keys differ at the end."""
    end = text[-15:]
    return text if len(text) <= _VALUE_MAX else f"{_prefix(text, 25)}...{end[end.find(' ', 0, 8) + 1 :]}"


def _window(text: str, start: int) -> str:
    """Return the part of a text from `start`, cut at word boundaries."""
    if start:
        start += max(0, text[start - 1 : start + _VALUE_MAX // 4].find(" "))
    return (
        f"{'...' if start else ''}{_prefix(text[start:], _VALUE_MAX)}{'...' if len(text) > start + _VALUE_MAX else ''}"
    )


def _prefix(text: str, size: int) -> str:
    space = text.rfind(" ", size // 2, size + 1)
    return text[:space] if len(text) > size and space > 0 else text[:size]
