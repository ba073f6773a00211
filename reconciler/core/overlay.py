"""What was asked of this process since it started, laid over what the files say: restarts, pauses, its shard.

Pure. A pause is by tunnel id and a restart by target, so that both survive any reload; what names nothing any more
does nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from reconciler.core.spec import Desired, TunnelSpec

_SHOWN = 5


class NoSuchTunnelError(Exception):
    """A pattern names no tunnel; the sentence says which there are."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` processes that share the targets of one file; `index` is 0 for the first."""

    index: int
    count: int

    def has(self, target: str) -> bool:
        """The same for a name on every machine and in every version."""
        return zlib.crc32(target.encode()) % self.count == self.index


@dataclass(slots=True)
class Overlay:
    """See the module. `pauses` are by tunnel id: until when (Unix time), None for until resumed."""

    shard: Shard | None = None
    generations: dict[str, int] = field(default_factory=dict)
    pauses: dict[str, float | None] = field(default_factory=dict)

    def over(self, files: Desired) -> Desired:
        """What to converge to."""
        mine = self._share(files)
        mine = mine.restarted(self.generations) if self.generations else mine
        return self._paused(mine) if self.pauses else mine

    def _share(self, files: Desired) -> Desired:
        if self.shard is None:
            return files
        return Desired.of(
            (target for target in files.targets.values() if self.shard.has(target.name)),
            (tunnel for tunnel in files.tunnels.values() if self.shard.has(tunnel.target)),
        )

    def _paused(self, mine: Desired) -> Desired:
        why = {tunnel: _until(wall) for tunnel, wall in self.pauses.items()}
        return Desired.of(
            mine.targets.values(),
            (replace(one, off=one.off or why[one.id]) if one.id in why else one for one in mine.tunnels.values()),
        )

    def restart(self, target: str) -> None:
        """Ask for new connections."""
        self.generations[target] = self.generations.get(target, 0) + 1

    def pause(self, ids: Iterable[str], until: float | None) -> None:
        self.pauses.update(dict.fromkeys(ids, until))

    def resume(self, ids: Iterable[str]) -> None:
        for tunnel in ids:
            self.pauses.pop(tunnel, None)

    def over_by(self, wall: float) -> list[str]:
        """The tunnels whose pause has ended by then."""
        return [tunnel for tunnel, until in self.pauses.items() if until is not None and until <= wall]


def _until(wall: float | None) -> str:
    """Why it is off."""
    if wall is None:
        return "paused"
    return f"paused until {datetime.fromtimestamp(wall, UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def matches(tunnel: TunnelSpec, patterns: Iterable[str]) -> bool:
    """Whether one of the globs names the tunnel, by its id or by its target."""
    return any(fnmatchcase(tunnel.id, glob) or fnmatchcase(tunnel.target, glob) for glob in patterns)


def matching(patterns: Iterable[str], desired: Desired) -> list[TunnelSpec]:
    """The tunnels that the globs name, in the order of the files. Raises NoSuchTunnelError if one names none."""
    patterns = list(patterns)
    for pattern in patterns:
        if not any(matches(tunnel, [pattern]) for tunnel in desired.tunnels.values()):
            raise NoSuchTunnelError(f"no tunnel is called {pattern}; {_there_are(list(desired.tunnels))}")
    return [tunnel for tunnel in desired.tunnels.values() if matches(tunnel, patterns)]


def _there_are(ids: list[str]) -> str:
    if not ids:
        return "there are none at all"
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"there are {', '.join(ids[:_SHOWN])}{more}"
