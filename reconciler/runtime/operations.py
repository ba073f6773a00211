"""What an operator or a program does to the tunnels of a running engine: restart, pause, resume.

Input: ids of tunnels and names of targets, which may be globs. Output: the tunnels concerned, and an event for each.
The control socket and the Python API carry their requests out here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from reconciler.core.overlay import matching
from reconciler.core.spec import TunnelSpec
from reconciler.report.snapshot import iso
from reconciler.runtime.engine import Engine


class Operations:
    """The operations on one engine. `by` is their origin, for events: "an operator".

    Each takes ids and returns the tunnels that it affects. An id that matches no tunnel raises NoSuchTunnelError.
    """

    def __init__(self, engine: Engine, by: str) -> None:
        self._engine = engine
        self._by = by

    def restart(self, ids: Sequence[str], *, now: bool) -> list[TunnelSpec]:
        """Replace the links of the targets of these tunnels. With `now`, cut the clients of the named tunnels.

        With `now`, a target also loses its old link immediately if all of its tunnels are named. Return all tunnels of
        these targets.
        """
        named = self.matching(ids)
        targets = list(dict.fromkeys(tunnel.target for tunnel in named))
        affected = [tunnel for tunnel in self._engine.desired.tunnels.values() if tunnel.target in targets]
        self._engine.restart(targets, f"{self._requested}{', immediately' if now else ''}")
        if now:
            for target in targets:
                if all(tunnel in named for tunnel in affected if tunnel.target == target):
                    self._engine.actuator.retire_now(target, f"the target was restarted by {self._by}")
            for tunnel in named:
                self._engine.actuator.cut(f"the tunnel was restarted by {self._by}", tunnel=tunnel.id)
                self._engine.record_cut(tunnel, self._requested)
        return affected

    def pause(self, ids: Sequence[str], seconds: float | None) -> list[TunnelSpec]:
        """Turn tunnels off for that time, or until they are resumed."""
        paused = self.matching(ids)
        until = time.time() + seconds if seconds is not None else None
        why = f"{self._requested}, until {iso(until)}" if until is not None else self._requested
        self._engine.pause([tunnel.id for tunnel in paused], until, why)
        return paused

    def resume(self, ids: Sequence[str]) -> list[TunnelSpec]:
        """End the pauses of tunnels."""
        resumed = self.matching(ids)
        self._engine.resume([tunnel.id for tunnel in resumed], self._requested)
        return resumed

    def matching(self, ids: Sequence[str]) -> list[TunnelSpec]:
        """Return the tunnels that the ids match, in the order of the files."""
        return matching(ids, self._engine.desired)

    @property
    def _requested(self) -> str:
        return f"requested by {self._by}"
