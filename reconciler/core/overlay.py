"""Run-time state that is applied over the files: restarts, pauses and the shard. Pure.

Pauses are keyed by tunnel id and restarts by target name, so both survive any reload. An entry for a tunnel or target
that no longer exists has no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.off import Off, OffCause
from reconciler.core.shard import Shard
from reconciler.core.spec import Desired, TunnelSpec
from reconciler.core.text.errors import TunnelsError
from reconciler.core.text.forms import and_more
from reconciler.core.text.progress import matches

_SHOWN = 5


class NoSuchTunnelError(TunnelsError, KeyError):
    """An id or pattern matches no tunnel. The message lists the tunnels that exist."""

    __str__ = Exception.__str__  # that of KeyError quotes the message


@dataclass(slots=True)
class Overlay:
    """Holds the run-time state: generations by target name, pauses by tunnel id."""

    shard: Shard | None = None
    generations: dict[str, int] = field(default_factory=dict)
    pauses: dict[str, Off] = field(default_factory=dict)

    def over(self, files: Desired) -> Desired:
        """Return the desired state: that of the files, with this state applied."""
        desired = self._of_shard(files)
        desired = desired.restarted(self.generations) if self.generations else desired
        return self._paused(desired) if self.pauses else desired

    def _of_shard(self, files: Desired) -> Desired:
        if self.shard is None:
            return files
        targets = {name: target for name, target in files.targets.items() if self.shard.has(name)}
        return Desired.of(targets.values(), (tunnel for tunnel in files.tunnels.values() if tunnel.target in targets))

    def _paused(self, desired: Desired) -> Desired:
        return Desired.of(
            desired.targets.values(),
            (
                replace(tunnel, off=tunnel.off or self.pauses[tunnel.id]) if tunnel.id in self.pauses else tunnel
                for tunnel in desired.tunnels.values()
            ),
        )

    def restart(self, target: str) -> None:
        """Ask for new connections to the target."""
        self.generations[target] = self.generations.get(target, 0) + 1

    def pause(self, ids: Iterable[str], until: float | None) -> None:
        """Turn tunnels off until that Unix time, or until they are resumed (None)."""
        self.pauses.update(dict.fromkeys(ids, Off(OffCause.PAUSED, until)))

    def resume(self, ids: Iterable[str]) -> None:
        for tunnel in ids:
            self.pauses.pop(tunnel, None)

    def over_by(self, wall: float) -> list[str]:
        """Return the ids of the tunnels whose pause ends at or before that Unix time."""
        return [tunnel for tunnel, off in self.pauses.items() if off.until is not None and off.until <= wall]


def matching(patterns: Iterable[str], desired: Desired) -> list[TunnelSpec]:
    """Return the tunnels that the globs match, in file order. Raises NoSuchTunnelError if a glob matches none."""
    patterns = list(patterns)
    for pattern in patterns:
        if not any(matches(tunnel, [pattern]) for tunnel in desired.tunnels):
            raise NoSuchTunnelError(unknown(pattern, list(desired.tunnels)))
    return [tunnel for tunnel in desired.tunnels.values() if matches(tunnel.id, patterns)]


def unknown(pattern: str, ids: Sequence[str]) -> str:
    """Return the message for a pattern that matches none of these tunnels."""
    known = f"known tunnels are {and_more(ids, _SHOWN)}" if ids else "no tunnels are configured"
    return f'no tunnel matches "{pattern}": {known}'
