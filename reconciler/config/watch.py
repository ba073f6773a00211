"""Notices when the content of files changes: configuration, and the keys and known hosts that it names.

inotify (through watchfiles) is a hint that makes it quick; reading and hashing everything every few seconds is the
guarantee. Contents are compared, never times. Watched are the directories of every hop of each symlink chain, because
a watch of the file itself goes blind after the first atomic rename or ConfigMap swap; and the files all the same,
because a single file that is mounted here has no directory in which its writes show. `active` says whether hints arrive
at all. A path that is not UTF-8 gives none: watchfiles takes text, so that it is only read again.
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
_SETTLE = 0.02  # a file that is being written is read again until it stays the same,
_SETTLE_ROUNDS = 25  # but not for ever: half a second
_MAX = 16 << 20  # bytes that are looked at: no file that is read may be larger (known_hosts)
_MAX_HOPS = 40  # as the kernel has it
_GROUP_MS = 40  # hints that come together
_STEP_MS = 25  # how often watchfiles looks: the latency of a hint

_EMPTY = hashlib.sha256().digest()  # an empty file gives no answer, and is not read again for one

_Contents = Mapping[str, bytes | None]  # by path: a digest, None where there is nothing to read


@dataclass(frozen=True, slots=True)
class Change:
    """Which files have other contents now (or are new, or gone): configuration, and the others that are watched."""

    config: frozenset[str]
    named: frozenset[str]


class Watcher:
    """`async with Watcher(paths) as watcher: async for change in watcher: …`

    What counts as changed is compared with what was there when the `async with` began, so begin it before the first
    load. `paths` are files and directories; `watch_also` sets the files that the loaded specs name.
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
        """Waits until the thread of watchfiles has ended."""
        self._stop.set()
        self._places_changed.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.active = False

    async def watch_also(self, named: Iterable[str]) -> None:
        """The files that specs name, all of them; a new one is compared with what it holds now."""
        wanted = frozenset(named)
        added = await asyncio.to_thread(_contents, wanted - self._named)
        self._named_seen = {path: seen for path, seen in self._named_seen.items() if path in wanted}
        self._named_seen |= added
        self._named = wanted
        self._places_changed.set()

    def look_again(self, paths: Iterable[str]) -> None:
        """The load could not read these files and directories: at the next look, those that can be read are changed.

        Otherwise a file that was read here, and not by the load just after (the process had no descriptor left), would
        be passed over until its next edit.
        """
        self._again = frozenset(map(Path, paths))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._hint.wait()
            self._hint.clear()
            if change := await self._look():
                return change

    async def _look(self) -> Change | None:
        config, named = await self._settled()
        changed = Change(_differing(self._config_seen, config), _differing(self._named_seen, named))
        if self._again:
            there = (path for path, digest in config.items() if digest not in (None, _EMPTY))
            again = frozenset(path for path in there if not self._again.isdisjoint((Path(path), Path(path).parent)))
            changed = Change(changed.config | again, changed.named)
            self._again = frozenset()
        if not changed.config and not changed.named:
            return None
        self._config_seen = config
        # Only those still wanted: watch_also may have been called meanwhile.
        self._named_seen = {path: named.get(path, seen) for path, seen in self._named_seen.items()}
        self._places_changed.set()
        return changed

    async def _settled(self) -> tuple[_Contents, _Contents]:
        """The contents, once two looks in a row agree: not those of a file half written."""
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
        """Set `_hint` whenever something happens near the files; begin anew when other places matter."""
        while not self._stop.is_set():
            self._places_changed.clear()
            places = await asyncio.to_thread(_places, (*self._paths, *self._named))
            # What happened between the last look and this watch gave no hint.
            self._hint.set()
            try:
                await self._hints_from(places)
            except* (OSError, RuntimeError):
                # No inotify instance, watch or thread left, a place vanished just now, or something happened to a name
                # that is not UTF-8.
                self.active = False
                self._hint.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._places_changed.wait()

    async def _hints_from(self, places: Sequence[str]) -> None:
        """Until the places change. The watch is ended by its own event, which ends its thread too."""
        # Where no thread can be started, watchfiles would wait for its own, and the event loop for it: better an error.
        threading.Thread(target=int, name="try").start()
        ended = asyncio.Event()
        relay = asyncio.create_task(self._end_with_places(places, ended))
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
            relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay

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
    """Of the files that are there now: one that comes or goes is a change as well."""
    return _contents(name for path in paths for name in listing(path).names)


def _contents(paths: Iterable[str]) -> dict[str, bytes | None]:
    found = FILES.wait_all(paths, _digest)
    return {path: None if isinstance(digest, OSError) else digest for path, digest in found.items()}


def _digest(path: str) -> bytes:
    try:
        return digest_regular(path, _MAX)
    except NotRegularFileError as error:  # one that becomes something else, or becomes a file again, has changed
        return f"{error.strerror}".encode()


def _places(paths: Iterable[str]) -> list[str]:
    """Where something has to happen for a path to mean another content: files and directories, those that exist."""
    found = FILES.wait_all(paths, _places_of)
    return sorted(set[str]().union(*(places for places in found.values() if not isinstance(places, OSError))))


def _places_of(path: str) -> set[str]:
    found = _on_the_way(Path(path).absolute())
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises in a directory that may not be searched
        found.add(path)
    return set(filter(is_utf8, found))


def _on_the_way(path: Path) -> set[str]:
    """The directory of what the path leads to, and of each link on the way, resolved one part after the other.

    Each link is looked at once, as the kernel does. Of a path that leads nowhere, the last directory that is there
    counts: what is missing appears in it.
    """
    found: set[str] = set()
    at, left, links = path.anchor, list(reversed(path.parts[1:])), 0
    while left:
        part = left.pop()
        if part == os.pardir:
            at = os.path.dirname(at)  # noqa: PTH120 - of a resolved path, at each of its parts
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
            if links > _MAX_HOPS:
                break
            at = target.anchor or at
            left += reversed(target.parts[1:] if target.anchor else target.parts)
        elif stat.S_ISDIR(mode):
            at = here
        else:
            break
    return found | {at}
