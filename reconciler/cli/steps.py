"""A plan made here, without a running process: two sets of files -> the steps from the one to the other.

The steps are the planner's own, foreseen in the simulator; what changed in a tunnel or target is named field by
field, in the words of the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import assert_never, cast

from reconciler.cli.answers import PlannedStep
from reconciler.config.effective import to_json
from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.simulate import Simulator, converge
from reconciler.core.spec import Desired
from reconciler.core.status import EMPTY, Now, SocketKey

_LONGEST = 40  # characters of a value that are shown


def between(old: Desired, new: Desired) -> list[PlannedStep]:
    """What a process that has converged on `old` would do with `new`."""
    world = Simulator(EMPTY, Now(0.0, time.time()), kind=True)
    converge(world, old)
    owners = {key: socket.owner.id for key, socket in world.observe().sockets.items()}
    return _described(converge(world, new), owners, _changes(old, new))


def _described(
    actions: Iterable[Action], owners: dict[SocketKey, str], changes: Mapping[str, str]
) -> list[PlannedStep]:
    made: list[PlannedStep] = []
    for action in actions:
        kind, name = _about(action, owners)
        why = action.why
        if isinstance(action, Dial | Assign | Tune) and name in changes:
            said = "the way to reach it changed" if isinstance(action, Dial) else why
            why = f"{said}: {changes[name]}"
        if isinstance(action, Open | Assign):
            owners[action.key] = action.tunnel.id
        made.append({"action": type(action).__name__.lower(), "subject": f"{kind} {name}", "why": why, "clients": 0})
    return made


def _about(action: Action, owners: Mapping[SocketKey, str]) -> tuple[str, str]:
    match action:
        case Dial(target=target):
            return "target", target.name
        case Retire(target=name) | Tune(target=name):
            return "target", name
        case Open(tunnel=tunnel) | Assign(tunnel=tunnel):
            return "tunnel", tunnel.id
        case Close(key=key) | Move(key=key):
            return "tunnel", owners.get(key, str(key.listen))
        case Drain(flow=flow) | Cut(flow=flow):
            return "tunnel", flow.tunnel
        case _:
            assert_never(action)


# --- what changed, in the file's words --------------------------------------------------------------------------


def _changes(old: Desired, new: Desired) -> dict[str, str]:
    """By target and tunnel id: `remoteHost db1 -> db2, holdTimeout 10s -> 30s`."""
    before, after = _fields(old), _fields(new)
    made = {}
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        differ = [field for field in {**one, **other} if one.get(field) != other.get(field)]
        said = [f"{field} {_shown(one.get(field))} -> {_shown(other.get(field))}" for field in differ]
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


def _shown(value: object) -> str:
    match value:
        case None | "" | [] | {}:
            return "(none)"
        case bool():
            return str(value).lower()
        case list() if len(value) == 1:
            return _shown(value[0])
        case _:
            text = str(value)
            return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
