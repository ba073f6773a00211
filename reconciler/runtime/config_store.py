"""Loads the files, keeps the latest result, and reports what is new in it.

Owns the latest `Loaded` and the counts of loads. Input: a call of `load` whenever the files may have changed. Output:
the result, a log line for each new problem, and an event for each load that changed something.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from reconciler.config.load import Config, Loaded
from reconciler.core.subject import CONFIG
from reconciler.core.text.forms import and_more
from reconciler.report.events import Event

log = logging.getLogger(__name__)

_SHOWN = 3


class ConfigStore:
    """The latest result of loading the files, and how often loading succeeded and failed. Times are Unix time."""

    def __init__(self, config: Config, add_event: Callable[[Event], None]) -> None:
        self._config = config
        self._add_event = add_event
        self._one_at_a_time = asyncio.Lock()
        self.latest: Loaded | None = None
        self.loaded_at: float | None = None
        self.succeeded_at: float | None = None
        self.reloads = 0
        self.failed = 0

    async def load(self, *, requested: bool = False) -> Loaded:
        """Read the files. A load that an operator requested counts even if nothing is new."""
        async with self._one_at_a_time:
            before, self.latest = self.latest, await asyncio.to_thread(self._config.reload)
            loaded = self.latest
        now = time.time()
        if loaded.valid:
            self.succeeded_at = now
        if before is None or loaded.revision != before.revision:
            self.loaded_at = now
        if requested or before is None or _content(loaded) != _content(before):
            self.reloads += loaded.valid
            self.failed += not loaded.valid
            self._add_event(_event(loaded, before, now))
        _log(loaded, before)
        return loaded


def _content(loaded: Loaded) -> object:
    return loaded.revision, loaded.rejected, loaded.errors


def _log(loaded: Loaded, before: Loaded | None) -> None:
    for level, problems, earlier in (
        (logging.ERROR, loaded.errors, before.errors if before else ()),
        (logging.WARNING, loaded.warnings, before.warnings if before else ()),
    ):
        known = frozenset(earlier)  # set lookup, not a search: this runs on the event loop
        for problem in problems:
            if problem not in known:
                log.log(level, "%s", problem)
    if before is not None and before.errors and not loaded.errors:
        log.info("all configuration files are valid again")


def _event(loaded: Loaded, before: Loaded | None, now: float) -> Event:
    errors = and_more([str(error) for error in loaded.errors], _SHOWN, "; ")
    targets, tunnels = _count(len(loaded.desired.targets), "target"), _count(len(loaded.desired.tunnels), "tunnel")
    return Event(
        at=now,
        subject=CONFIG,
        phase="valid" if loaded.valid else "invalid",
        before=None if before is None else "valid" if before.valid else "invalid",
        message=errors or f"{loaded.revision}: {targets}, {tunnels}",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
