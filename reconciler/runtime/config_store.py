"""Reading the files again, telling what is new about them, and remembering how that went.

Owns the latest `Loaded` and its history. In: `load`, whenever the files may have changed. Out: the result; a log line
for each problem that is new, and one event for each load that changed anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from reconciler.config.load import Config, Loaded
from reconciler.report.events import Event

log = logging.getLogger(__name__)

_SHOWN = 3


class ConfigStore:
    """See the module. Times are Unix time."""

    def __init__(self, config: Config, tell: Callable[[Event], None]) -> None:
        self._config = config
        self._tell = tell
        self._one_at_a_time = asyncio.Lock()
        self.latest: Loaded | None = None
        self.loaded_at: float | None = None
        self.succeeded_at: float | None = None
        self.reloads = 0
        self.failed = 0

    async def load(self, *, asked: bool = False) -> Loaded:
        """Read the files. `asked` by a person: it counts even if nothing is new."""
        async with self._one_at_a_time:
            before, self.latest = self.latest, await asyncio.to_thread(self._config.reload)
            loaded = self.latest
        now = time.time()
        if loaded.valid:
            self.succeeded_at = now
        if before is None or loaded.revision != before.revision:
            self.loaded_at = now
        if asked or before is None or _content(loaded) != _content(before):
            self.reloads += loaded.valid
            self.failed += not loaded.valid
            self._tell(_event(loaded, before, now))
        _log(loaded, before)
        return loaded


def _content(loaded: Loaded) -> object:
    return loaded.revision, loaded.rejected, loaded.errors


def _log(loaded: Loaded, before: Loaded | None) -> None:
    for level, problems, told in (
        (logging.ERROR, loaded.errors, before.errors if before else ()),
        (logging.WARNING, loaded.warnings, before.warnings if before else ()),
    ):
        known = frozenset(told)  # this is the event loop's time: each problem is looked up, not looked for
        for problem in problems:
            if problem not in known:
                log.log(level, "%s", problem)
    if before is not None and before.errors and not loaded.errors:
        log.info("the files are valid again")


def _event(loaded: Loaded, before: Loaded | None, now: float) -> Event:
    more = f"; and {len(loaded.errors) - _SHOWN} more" if len(loaded.errors) > _SHOWN else ""
    errors = "; ".join(map(str, loaded.errors[:_SHOWN])) + more
    targets, tunnels = _count(len(loaded.desired.targets), "target"), _count(len(loaded.desired.tunnels), "tunnel")
    return Event(
        at=now,
        subject="config",
        phase="valid" if loaded.valid else "invalid",
        before=None if before is None else "valid" if before.valid else "invalid",
        message=errors or f"{loaded.revision}: {targets}, {tunnels}",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
