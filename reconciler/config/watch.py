"""Detects changes of file contents: configuration files, and the keys and known hosts files that they name.

All files are read and hashed every few seconds; inotify (through watchfiles) only makes detection faster. Contents are
compared, never times. The watch covers the directory of each link in a symlink chain, because a watch of the file
itself is lost with the first atomic rename or ConfigMap swap. It also covers the file, because writes to a single
mounted file do not show in its directory. `active` says whether the watch works. A path that is not UTF-8 is only read
periodically, because watchfiles takes text.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import awatch

from reconciler.config.syntax.config_files import STDIN, is_utf8, listing
from reconciler.system.file_calls import FILES
from reconciler.system.read_file import NotRegularFileError, digest_regular

_INTERVAL = 2.0
_SETTLE = 0.02  # seconds between reads of a file that is being written, until two reads agree
_SETTLE_ROUNDS = 25  # at most this many reads: half a second
_MAX = 16 << 20  # bytes to read: the limit of the largest kind of file (known_hosts)
_MAX_LINKS = 40  # the limit of the kernel
_GROUP_MS = 40  # watchfiles groups events within this time
_STEP_MS = 25  # how often watchfiles polls its queue: the latency of an event

_EMPTY = hashlib.sha256().digest()  # an empty file counts as unreadable, so it is not reported as readable again

_Contents = Mapping[str, bytes | None]  # digests by path; None for a file that cannot be read


@dataclass(frozen=True, slots=True)
class FileChanges:
    """The files whose contents changed, or that are new or removed: configuration files, and files that they name."""

    config: frozenset[str]
    named: frozenset[str]


class Watcher:
    """`async with Watcher(paths) as watcher: async for change in watcher: …`

    Changes are relative to the contents at the start of the `async with`, so enter it before the first load. `paths`
    are files and directories; `watch_also` sets the files that the loaded specs name.
    """

    def __init__(self, paths: Sequence[str | Path], *, interval: float = _INTERVAL) -> None:
        self.active = False
        self._paths = tuple(path for path in map(str, paths) if path != STDIN)
        self._interval = interval
        self._named: frozenset[str] = frozenset()
        self._config_seen: _Contents = {}
        self._named_seen: dict[str, bytes | None] = {}
        self._again: frozenset[Path] = frozenset()
        self._hint = asyncio.Event()
        self._stop = asyncio.Event()
        self._places_changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._config_seen = await asyncio.to_thread(_contents_of_config, self._paths)
        self._task = asyncio.create_task(self._hints(), name="config watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the watch and wait for the thread of watchfiles to end."""
        self._stop.set()
        self._places_changed.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.active = False

    async def watch_also(self, named: Iterable[str]) -> None:
        """Set the files that the specs name. Changes of a new one are relative to its present content."""
        wanted = frozenset(named)
        added = await asyncio.to_thread(_contents, wanted - self._named)
        self._named_seen = {path: seen for path, seen in self._named_seen.items() if path in wanted}
        self._named_seen |= added
        self._named = wanted
        self._places_changed.set()

    def look_again(self, paths: Iterable[str]) -> None:
        """Report these files and directories, which a load could not read, as changed once they can be read.

        Without this, a file that the watcher can read but the load could not (no descriptor was left) would be ignored
        until its next edit.
        """
        self._again = frozenset(map(Path, paths))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FileChanges:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._hint.wait()
            self._hint.clear()
            if change := await self._look():
                return change

    async def _look(self) -> FileChanges | None:
        config, named = await self._settled()
        changed = FileChanges(_differing(self._config_seen, config), _differing(self._named_seen, named))
        if self._again:
            there = (path for path, digest in config.items() if digest not in (None, _EMPTY))
            again = frozenset(path for path in there if not self._again.isdisjoint((Path(path), Path(path).parent)))
            changed = FileChanges(changed.config | again, changed.named)
            self._again = frozenset()
        if not changed.config and not changed.named:
            return None
        self._config_seen = config
        # Only files still watched: watch_also may have been called meanwhile.
        self._named_seen = {path: named.get(path, seen) for path, seen in self._named_seen.items()}
        self._places_changed.set()
        return changed

    async def _settled(self) -> tuple[_Contents, _Contents]:
        """Return the contents once two reads in a row agree, so that no file is half written."""
        now = await self._read()
        if now == (self._config_seen, self._named_seen):
            return now
        for _ in range(_SETTLE_ROUNDS):
            await asyncio.sleep(_SETTLE)
            before, now = now, await self._read()
            if now == before:
                break
        return now

    async def _read(self) -> tuple[_Contents, _Contents]:
        named = self._named
        return await asyncio.to_thread(lambda: (_contents_of_config(self._paths), _contents(named)))

    async def _hints(self) -> None:
        """Set `_hint` at each event near the files. Restart the watch when the watched places change."""
        while not self._stop.is_set():
            self._places_changed.clear()
            places = await asyncio.to_thread(_places, (*self._paths, *self._named))
            # An event between the last read and the start of this watch was missed.
            self._hint.set()
            try:
                await self._hints_from(places)
            except* (OSError, RuntimeError):
                # No inotify instance, watch or thread is left, a watched place was removed, or an event named a path
                # that is not UTF-8.
                self.active = False
                self._hint.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._places_changed.wait()

    async def _hints_from(self, places: Sequence[str]) -> None:
        """Watch until the places change. The watch ends through its stop event, which also ends its thread."""
        # If no thread can be started, watchfiles would block the event loop. Starting one here raises an error instead.
        threading.Thread(target=int, name="try").start()
        ended = asyncio.Event()
        waiter = asyncio.create_task(self._end_with_places(places, ended))
        hints = awatch(
            *places,
            watch_filter=None,
            debounce=_GROUP_MS,
            step=_STEP_MS,
            stop_event=ended,
            recursive=False,
            force_polling=False,
            ignore_permission_denied=True,
        )
        try:
            async with aclosing(hints):
                self.active = bool(places)
                async for _ in hints:
                    self._hint.set()
        finally:
            ended.set()
            waiter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiter

    async def _end_with_places(self, places: Sequence[str], ended: asyncio.Event) -> None:
        while True:
            await self._places_changed.wait()
            self._places_changed.clear()
            now = await asyncio.to_thread(_places, (*self._paths, *self._named))
            if self._stop.is_set() or now != places:
                ended.set()
                return


def _differing(before: _Contents, now: _Contents) -> frozenset[str]:
    return frozenset(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def _contents_of_config(paths: Iterable[str]) -> _Contents:
    """Read the files that exist now, so that a new or removed file is a change as well."""
    return _contents(name for path in paths for name in listing(path).names)


def _contents(paths: Iterable[str]) -> dict[str, bytes | None]:
    found = FILES.wait_all(paths, _digest)
    return {path: None if isinstance(digest, OSError) else digest for path, digest in found.items()}


def _digest(path: str) -> bytes:
    try:
        return digest_regular(path, _MAX)
    except NotRegularFileError as error:  # a file that becomes something else, or the reverse, has changed
        return f"{error.strerror}".encode()


def _places(paths: Iterable[str]) -> list[str]:
    """Return the existing files and directories whose events can change the content of a path."""
    found = FILES.wait_all(paths, _places_of)
    return sorted(set[str]().union(*(places for places in found.values() if not isinstance(places, OSError))))


def _places_of(path: str) -> set[str]:
    found = _directories_of_chain(Path(path).absolute())
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises in a directory that may not be searched
        found.add(path)
    return set(filter(is_utf8, found))


def _directories_of_chain(path: Path) -> set[str]:
    """Return the directory of the file and of each symlink on the path to it, resolved part by part like the kernel.

    For a path that does not exist, the last existing directory is included: the missing part will appear in it.
    """
    found: set[str] = set()
    at, left, links = path.anchor, list(reversed(path.parts[1:])), 0
    while left:
        part = left.pop()
        if part == os.pardir:
            at = os.path.dirname(at)  # noqa: PTH120 - text, at each part of a resolved path
            continue
        here = os.path.join(at, part)  # noqa: PTH118
        try:
            mode = os.lstat(here).st_mode
            target = Path(os.readlink(here)) if stat.S_ISLNK(mode) else None  # noqa: PTH115 - beside os.lstat
        except OSError:
            break
        if target is not None:
            found.add(at)
            links += 1
            if links > _MAX_LINKS:
                break
            at = target.anchor or at
            left += reversed(target.parts[1:] if target.anchor else target.parts)
        elif stat.S_ISDIR(mode):
            at = here
        else:
            break
    return found | {at}
