"""A plan in words: the planner's steps -> what each does, to what, why, and how many live clients it touches.

Serves `tunnels plan`, whether it asks a running process or compares two sets of files. The steps are the planner's
own, foreseen in the simulator; what changed in a tunnel or target is named field by field, in the words of the file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import assert_never, cast

import yaml

from reconciler.config.effective import to_json
from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.simulate import Simulator, converge
from reconciler.core.spec import Desired
from reconciler.core.status import EMPTY, Now, Observed, SocketKey

_LONGEST = 40  # characters of a value that are shown


@dataclass(frozen=True, slots=True)
class Step:
    """`action` is the planner's word in small letters, `subject` as in events: "target prod", "tunnel prod/pg".

    `clients`: how many live ones it drains, cuts, or takes off their connection.
    """

    action: str
    subject: str
    why: str
    clients: int


def between(old: Desired, new: Desired) -> list[Step]:
    """What a process that has converged on `old`, and has no clients, would do with `new`."""
    world = Simulator(EMPTY, Now(0.0, time.time()), kind=True)
    converge(world, old)
    observed = world.observe()
    return described(converge(world, new), observed, old, new)


def described(actions: Iterable[Action], observed: Observed, old: Desired, new: Desired) -> list[Step]:
    """In words, what leads from `observed`, where `old` was asked for, to `new`."""
    owners = {key: socket.owner.id for key, socket in observed.sockets.items()}
    changes = _changes(old, new)
    made: list[Step] = []
    for action in actions:
        subject = subject_of(action, owners)
        why = _why(action, changes, old)
        made.append(Step(type(action).__name__.lower(), subject, why, clients_of(action, observed)))
        if isinstance(action, Open | Assign):
            owners[action.key] = action.tunnel.id
    return made


def subject_of(action: Action, owners: Mapping[SocketKey, str]) -> str:
    """What it is about. `owners`: the tunnel of each socket."""
    match action:
        case Dial(target=target):
            return f"target {target.name}"
        case Retire(target=name) | Tune(target=name):
            return f"target {name}"
        case Open(tunnel=tunnel) | Assign(tunnel=tunnel):
            return f"tunnel {tunnel.id}"
        case Close(key=key) | Move(key=key):
            return f"tunnel {owners[key]}" if key in owners else str(key.listen)
        case Drain(flow=flow) | Cut(flow=flow):
            return f"tunnel {flow.tunnel}"
        case _:
            assert_never(action)


def clients_of(action: Action, observed: Observed) -> int:
    """How many live clients it touches; taking a deadline back touches none."""
    match action:
        case Retire(link=link):
            return sum(flow.count for flow in observed.flows if flow.key.link == link)
        case Drain(draining=None):
            return 0
        case Drain(flow=touched) | Cut(flow=touched):
            return sum(flow.count for flow in observed.flows if flow.key == touched)
        case _:
            return 0


# --- why, in the file's words -----------------------------------------------------------------------------------


def _why(action: Action, changes: Mapping[str, str], old: Desired) -> str:
    match action:
        case Assign(tunnel=tunnel) if tunnel.id in changes:
            return f"{action.why}: {changes[tunnel.id]}"
        case Tune(target=name) if name in changes:
            return f"{action.why}: {changes[name]}"
        case Dial(target=target) if target.name in changes and old.targets[target.name].access != target.access:
            return f"the way to reach it changed: {changes[target.name]}"
        case _:
            return action.why


def _changes(old: Desired, new: Desired) -> dict[str, str]:
    """By target and tunnel id: `remoteHost db1 -> db2, holdTimeout 10s -> 30s`."""
    before, after = _fields(old), _fields(new)
    made = {}
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        said = [said for field in {**one, **other} for said in _differences(field, one.get(field), other.get(field))]
        if said:
            made[name] = ", ".join(said)
    return made


def _fields(desired: Desired) -> dict[str, Mapping[str, object]]:
    """The fields of everything, by target and by tunnel id."""
    made: dict[str, Mapping[str, object]] = {}
    targets = cast("dict[str, dict[str, object]]", to_json(desired)["targets"])
    for name, target in targets.items():
        made[name] = {field: value for field, value in target.items() if field != "tunnels"}
        for tunnel in cast("list[dict[str, object]]", target["tunnels"]):
            made[f"{name}/{tunnel['name']}"] = tunnel
    return made


def _differences(name: str, one: object, other: object) -> Iterator[str]:
    """`holdTimeout 10s -> 30s`; of long lists and mappings the parts that differ: `health.interval 30s -> 1m`."""
    if one == other:
        return
    before, after = _shown(one), _shown(other)
    if len(before) <= _LONGEST and len(after) <= _LONGEST:
        yield f"{name} {before} -> {after}"
        return
    match one, other:
        case dict(), dict():
            for key in {**one, **other}:
                yield from _differences(f"{name}.{key}", one.get(key), other.get(key))
        case list(), list() if len(one) == len(other):
            for number, (old, new) in enumerate(zip(one, other, strict=True)):
                yield from _differences(f"{name}[{number}]", old, new)
        case _:
            alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
            start = max(0, alike - _LONGEST // 2)  # from the beginning both could look the same
            yield f"{name} {_cut(before, start)} -> {_cut(after, start)}"


def _cut(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'...' if start else ''}{text[start:end]}{'...' if len(text) > end else ''}"


def _shown(value: object) -> str:
    """As the file would say it."""
    match value:
        case None | "":
            return "(none)"
        case list() | dict() if not value:
            return "(none)"
        case bool():
            return str(value).lower()
        case [one]:
            return _shown(one)
        case list() | dict():
            text: str = yaml.safe_dump(
                value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
            )
            return text.rstrip("\n")
        case _:
            return str(value)
