"""Each way in which editors, tools and clusters save a file is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.config import watch
from reconciler.config.load import Config
from reconciler.core.observed import Phase
from reconciler.runtime.app import App
from support.clients import FULL, LONG, Mover, all_move
from support.services import EchoServer, exchange, refuses
from support.sshd import Sshd
from support.tunnels import file, local, target
from support.wait import WITHIN, eventually, free_port

CHANGES = 100 if FULL else 10
CHANGES_WITHOUT_HINTS = 100 if FULL else 2
TEAMS = 40


# --- how files are saved ------------------------------------------------------------------------------------------


class Saved:
    """A file that is saved repeatedly in one way. `path`: the path that the program gets."""

    def __init__(self, directory: Path, text: str) -> None:
        self.directory = directory
        self.path = directory / "tunnels.yaml"
        self.begin(text)

    def begin(self, text: str) -> None:
        self.path.write_text(text)

    def save(self, text: str) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Undo what deleting the temporary directory does not."""


class Vim(Saved):
    """With `backup`: rename the old file, and write the new one beside it."""

    def save(self, text: str) -> None:
        backup = self.directory / "tunnels.yaml~"
        (self.directory / "4913").write_text("")  # Vim tests whether it can create files here
        (self.directory / "4913").unlink()
        self.path.rename(backup)
        with self.path.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        backup.unlink()


class Emacs(Saved):
    """Copy the old content to a backup, then write the file in place, with lock and auto-save files beside it."""

    def save(self, text: str) -> None:
        lock = self.directory / ".#tunnels.yaml"
        lock.symlink_to("somebody@somewhere.1")
        (self.directory / "#tunnels.yaml#").write_text(text)
        (self.directory / "tunnels.yaml~").write_bytes(self.path.read_bytes())
        self.path.write_text(text)
        (self.directory / "#tunnels.yaml#").unlink()
        lock.unlink()


class Sed(Saved):
    """`sed -i`, the real one."""

    def save(self, text: str) -> None:
        new = next(line for line in text.splitlines() if "description" in line)
        subprocess.run(["sed", "-i", f"s|.*description.*|{new}|", self.path], check=True)
        assert self.path.read_text() == text


class Renamed(Saved):
    """Write a new file and rename it over the old one."""

    def save(self, text: str) -> None:
        beside = self.directory / ".new"
        beside.write_text(text)
        beside.replace(self.path)


class InPlace(Saved):
    """Truncate the file, then write it in two halves."""

    def save(self, text: str) -> None:
        with self.path.open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            file.write(text[len(text) // 2 :])


class ConfigMap(Saved):
    """As the kubelet does: the file is a link through `..data`, and each save swaps `..data`."""

    def begin(self, text: str) -> None:
        self._number = 0
        self.save(text)
        self.path.symlink_to("..data/tunnels.yaml")

    def save(self, text: str) -> None:
        self._number += 1
        fresh = self.directory / f"..2026_{self._number}"
        fresh.mkdir()
        (fresh / "tunnels.yaml").write_text(text)
        data, link = self.directory / "..data", self.directory / "..data_tmp"
        old = data.resolve() if data.is_symlink() else None
        link.symlink_to(fresh.name)
        link.replace(data)
        if old is not None:
            (old / "tunnels.yaml").unlink()
            old.rmdir()


class GitSync(Saved):
    """A link to the checkout of a revision. Each save swaps the link."""

    def begin(self, text: str) -> None:
        self._number = 0
        self.save(text)
        self.path = self.directory / "current" / "deploy" / "tunnels.yaml"

    def save(self, text: str) -> None:
        self._number += 1
        tree = self.directory / "worktrees" / str(self._number) / "deploy"
        tree.mkdir(parents=True)
        (tree / "tunnels.yaml").write_text(text)
        link = self.directory / "link"
        link.symlink_to(tree.parent)
        link.replace(self.directory / "current")


class Mounted(Saved):
    """A single file mounted into a container, and written in place from outside.

    Without permission to mount, a hard link replaces the mount: the watched directory has no event for a write either.
    """

    def begin(self, text: str) -> None:
        self._outside = self.directory / "outside" / "tunnels.yaml"
        self._outside.parent.mkdir()
        self._outside.write_text(text)
        self.path = self.directory / "inside" / "tunnels.yaml"
        self.path.parent.mkdir()
        self.path.touch()
        mount = ["mount", "--bind", str(self._outside), str(self.path)]
        self._mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        if not self._mounted:
            self.path.unlink()
            self.path.hardlink_to(self._outside)

    def save(self, text: str) -> None:
        self._outside.write_text(text)

    def end(self) -> None:
        if self._mounted:
            subprocess.run(["umount", self.path], check=True)


class Recreated(Saved):
    """Delete the file, and create it some time later."""

    def save(self, text: str) -> None:
        self.path.unlink()
        time.sleep(0.05)
        self.path.write_text(text)


WAYS: list[type[Saved]] = [Vim, Emacs, Sed, Renamed, InPlace, ConfigMap, GitSync, Mounted, Recreated]


@pytest.fixture(params=[True, False], ids=["with inotify", "without inotify"])
def hints(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With inotify alone (the periodic check is postponed), and with the periodic check alone."""

    def none_left(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise OSError("no inotify instance left")

    if request.param:
        defaults = watch.Watcher.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "interval", 3600.0)
    else:
        monkeypatch.setattr(watch, "awatch", none_left)
    return bool(request.param)


@pytest.mark.timeout(LONG)
async def test_every_way_of_saving_a_file_is_noticed(hints: bool, sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """All ways at once, each with its own program."""
    changes = CHANGES if hints else CHANGES_WITHOUT_HINTS
    await asyncio.gather(*(changes_are_applied(way, tmp_path / way.__name__, sshd, echo, changes) for way in WAYS))


async def changes_are_applied(way: type[Saved], directory: Path, sshd: Sshd, echo: EchoServer, changes: int) -> None:
    """Save the file this many times, and wait each time until the program works for its content."""
    directory.mkdir()
    port = free_port()

    def text(number: int) -> str:
        return file(
            sshd,
            "      - name: echo\n",
            f"        description: change {number}\n",
            f'        local: "{port}:127.0.0.1:{echo.port}"\n',
        )

    saved = await asyncio.to_thread(way, directory, text(0))
    try:
        async with program(saved.path) as app:
            await eventually(lambda: up_in(app) == {"server/echo"})
            await eventually(lambda: app._watcher is not None)
            for number in range(1, changes + 1):
                await asyncio.to_thread(saved.save, text(number))
                await eventually(partial(says, app, f"change {number}"))
                assert app.engine.status is not None
                assert app.engine.status.tunnels[0].verdict.phase is Phase.UP
            assert await exchange("127.0.0.1", port) == b"ping"
            assert [link.number for link in app.engine.actuator.links.values()] == [1]
    finally:
        await asyncio.to_thread(saved.end)


@contextlib.asynccontextmanager
async def program(path: Path) -> AsyncIterator[App]:
    app = App(Config([path], environ={"HOME": "/nowhere"}))
    task = asyncio.create_task(app.run())
    try:
        yield app
    finally:
        app.end()
        app.end()
        assert await asyncio.wait_for(task, WITHIN) == 0


def says(app: App, description: str) -> bool:
    """Return True if the program has applied this content."""
    return app.engine.desired.tunnels["server/echo"].policy.description == description


# --- a directory of many files ------------------------------------------------------------------------------------


class Teams:
    """A directory with a file for each team."""

    def __init__(self, sshd: Sshd, echo: EchoServer, directory: Path) -> None:
        self.directory = directory
        self.ports = {f"team{number:02}": free_port() for number in range(TEAMS)}
        directory.mkdir()
        (directory / "00-targets.yaml").write_text("targets:\n" + target(sshd, "bastion").replace("    tunnels:\n", ""))
        for name, port in self.ports.items():
            self.file(name).write_text(f"targets:\n  bastion:\n    tunnels:\n{local(name, port, echo.port)}")

    def file(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def ids(self) -> Iterator[str]:
        return (f"bastion/{name}" for name in self.ports if self.file(name).exists())


async def test_a_typo_in_one_of_forty_files_keeps_none_of_the_others_from_starting(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    teams = Teams(sshd, echo, tmp_path / "teams")
    typo = teams.file("team17")
    right = typo.read_text()
    typo.write_text(right.replace("localPort", "localPrt"))
    async with program(teams.directory) as app:
        up = partial(up_in, app)
        others = [id_ for id_ in teams.ids() if id_ != "bastion/team17"]
        await eventually(lambda: up() == set(others))
        assert app.loaded is not None
        assert not app.loaded.valid
        told = [str(error) for error in app.loaded.errors]
        assert all(str(typo) in error for error in told)
        typo.write_text(right)
        await eventually(lambda: up() == set(teams.ids()))


@pytest.mark.usefixtures("hints")
async def test_a_teams_file_that_is_deleted_closes_its_ports_and_drains_its_clients(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    teams = Teams(sshd, echo, tmp_path / "teams")
    async with program(teams.directory) as app:
        up = partial(up_in, app)
        await eventually(lambda: up() == set(teams.ids()))
        movers = {name: Mover(teams.ports[name]) for name in ("team03", "team04")}
        await all_move(movers.values())
        teams.file("team03").unlink()
        await eventually(partial(refuses, teams.ports["team03"]))
        await all_move(movers.values())
        assert up() == set(teams.ids())
        for mover in movers.values():
            await mover.end()


def up_in(app: App) -> set[str]:
    """Return the ids of the tunnels that are up."""
    return {t.id for t in app.engine.status.tunnels if t.verdict.phase is Phase.UP} if app.engine.status else set()
