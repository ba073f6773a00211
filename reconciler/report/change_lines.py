"""Groups the changes of a pass into log lines: one for a target and its tunnels, or for tunnels that change alike.

Pure. Input: changes. Output: lines, each with the changes that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.addresses import is_choice
from reconciler.core.observed import Phase, Reason
from reconciler.core.status import TunnelStatus
from reconciler.core.text.forms import and_more, phase_text
from reconciler.report.changes import Change

_NAMED = 5  # tunnels, at most, in the text of a line


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """One line. `change` is that of a target or of the first of `tunnels`, which have changed in the same way."""

    change: Change
    tunnels: tuple[Change, ...]

    def text(self, tunnels: Mapping[str, TunnelStatus]) -> str:
        """Return `target prod is up: b:22 (3 tunnels: pg, web, ftp)`. `tunnels`: their present status, by id."""
        if self.change.subject.kind == "target":
            return self.change.sentence() + self._tunnels(tunnels)
        if len(self.tunnels) == 1:
            return self.change.sentence()
        verdict = self.change.verdict
        state = phase_text(verdict.phase, verdict.reason, verdict.message) if verdict is not None else "gone"
        return alike_text([one.subject.name for one in self.tunnels], state)

    def _tunnels(self, tunnels: Mapping[str, TunnelStatus]) -> str:
        if not self.tunnels:
            return ""
        names = and_more([_name(one, tunnels.get(one.subject.name)) for one in self.tunnels], _NAMED)
        return f" ({_count(self.tunnels)}: {names})"


@dataclass(frozen=True, slots=True)
class _Alike:
    """What changes must have in common for one line. `detail`: the new address of a tunnel that was up before."""

    target: str
    phase: Phase | None
    reason: Reason | None
    message: str
    detail: str = ""


def alike_text(tunnels: Sequence[str], state: str) -> str:
    """Return `3 tunnels of prod are paused: on request (pg, web, ftp)`. `tunnels`: the ids of tunnels of one target."""
    target, names = tunnels[0].partition("/")[0], [one.partition("/")[2] for one in tunnels]
    if len(tunnels) == 1:
        return f"tunnel {tunnels[0]} is {state}"
    return f"{_count(tunnels)} of {target} are {state} ({and_more(names, _NAMED)})"


def _count(tunnels: Sequence[object]) -> str:
    return "1 tunnel" if len(tunnels) == 1 else f"{len(tunnels)} tunnels"


def change_lines(changes: Iterable[Change]) -> Iterator[ChangeLine]:
    """Yield the lines of changes that happened together, those of targets first."""
    targets: list[Change] = []
    groups: dict[_Alike, list[Change]] = {}
    for change in changes:
        if change.subject.kind == "target":
            targets.append(change)
        else:
            groups.setdefault(_alike(change), []).append(change)
    for target in targets:
        alike = _alike(target)
        healthy = _Alike(alike.target, alike.phase, None, "")  # the message may be about the connection alone
        yield ChangeLine(target, tuple(one for key in {alike: 0, healthy: 0} for one in groups.pop(key, ())))
    for group in groups.values():
        yield ChangeLine(group[0], tuple(group))


def _alike(change: Change) -> _Alike:
    target, verdict = change.subject.target, change.verdict
    if verdict is None:
        return _Alike(target, None, None, "")
    is_moved = change.subject.kind == "tunnel" and change.before is verdict.phase is Phase.UP
    return _Alike(target, verdict.phase, verdict.reason, verdict.message, change.detail if is_moved else "")


def _name(change: Change, status: TunnelStatus | None) -> str:
    """Return the tunnel's name in its target, with its address if the file leaves the port open."""
    name = change.subject.name.partition("/")[2]
    is_bound = status is not None and status.verdict.phase is Phase.UP and is_choice(status.spec.listen)
    return f"{name} on {status.bound}" if status is not None and is_bound else name
