"""Other users exchange files, links and directories during binds of unix sockets: no other file is changed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.spec import LocalUnix
from reconciler.system.bind import bind
from support.other_user import NOBODY, needs_root, other_user, shared_directory
from support.wait import fd_count

BINDS = 400  # maximum; the attacker's loop is limited too

# Replaces the path, the lock file and the temporary files by links to the victim as soon as they appear.
EXCHANGE = """
directory, name, victim = sys.argv[1:4]
os.chdir(directory)
aside, rounds = os.path.join(directory, "aside"), 0
print("ready", flush=True)
until = time.monotonic() + 60
while time.monotonic() < until:
    rounds += 1
    for found in {name, "." + name + ".tunnels-lock", *os.listdir(".")} - {"aside"}:
        to = victim if rounds % 2 else os.path.dirname(victim)
        try:
            if not stat.S_ISLNK(os.lstat(found).st_mode):
                os.rename(found, "aside" + str(rounds))
                os.symlink(to, found)
            elif rounds % 7 == 0:
                os.unlink(found)
        except OSError:
            try:
                if found == name:
                    os.symlink(to, found)
            except OSError:
                pass
        if found.startswith("aside"):
            try:
                os.unlink(found)
            except OSError:
                try:
                    os.rmdir(found)
                except OSError:
                    pass
"""


@contextlib.contextmanager
def unchanged_victim() -> Iterator[Path]:
    """Yield a file that only this user may read, in a directory that others may enter. Check it at the end."""
    with shared_directory(0o755) as directory:
        victim = directory / "victim"
        victim.write_text("precious\n")
        victim.chmod(0o600)
        before = victim.lstat()
        entries = sorted(directory.iterdir())
        yield victim
        after = victim.lstat()
        assert victim.read_text() == "precious\n"
        assert stat.S_IMODE(after.st_mode) == 0o600
        assert (after.st_uid, after.st_gid, after.st_ino) == (before.st_uid, before.st_gid, before.st_ino)
        assert sorted(directory.iterdir()) == entries, "no file is created or removed there"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize(("mode", "owner"), [(0o1777, 0), (0o777, 0), (0o755, NOBODY)])
async def test_links_exchanged_during_the_bind_change_no_other_file(mode: int, owner: int) -> None:
    descriptors, results = fd_count(os.getpid()), []
    with unchanged_victim() as victim, shared_directory(mode, owner) as directory:
        with other_user(EXCHANGE, directory, "s", victim):
            for _ in range(BINDS):
                try:
                    bound = await bind(LocalUnix(str(directory / "s"), 0o666, str(NOBODY)))
                except OSError as error:
                    results.append(error.errno)
                else:
                    bound.close()
                    results.append(0)
                await asyncio.sleep(0)
    assert len(results) == BINDS
    assert fd_count(os.getpid()) <= descriptors


@pytest.mark.parametrize("moment", ["bind", "listen"])
async def test_a_link_put_in_place_of_a_new_socket_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path, victim = tmp_path / "s", tmp_path / "victim"
    victim.write_text("precious\n")
    victim.chmod(0o600)

    def exchange() -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(victim)

    class Exchanging(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            if moment == "bind":
                exchange()

        def listen(self, backlog: int = 0) -> None:
            super().listen(backlog)
            if moment == "listen":
                exchange()

    monkeypatch.setattr(socket, "socket", Exchanging)
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        await bind(LocalUnix(str(path), 0o666, ""))
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert path.is_symlink(), "a file of another program is not removed"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s", "victim"]


async def test_another_file_put_in_place_of_a_stale_socket_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    leave_stale(path)

    class Exchanging(socket.socket):
        def connect(self, address: Any) -> None:
            try:
                super().connect(address)
            finally:
                path.unlink()
                path.write_text("precious\n")

    monkeypatch.setattr(socket, "socket", Exchanging)
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        await bind(LocalUnix(str(path), 0o600, ""))
    assert path.read_text() == "precious\n"


async def test_a_file_that_replaced_the_socket_is_not_removed(tmp_path: Path) -> None:
    path, lock = tmp_path / "s", tmp_path / ".s.tunnels-lock"
    bound = await bind(LocalUnix(str(path), 0o600, ""))
    assert lock.exists()
    for theirs in (path, lock):
        theirs.unlink()
        theirs.write_text("")
    bound.close()
    assert path.exists()
    assert lock.exists()


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "directory", "device"])
async def test_a_foreign_lock_file_is_reported_and_stays_unchanged(tmp_path: Path, kind: str) -> None:
    lock, victim = tmp_path / ".s.tunnels-lock", tmp_path / "victim"
    victim.write_text("precious\n")
    match kind:
        case "link":
            lock.symlink_to(victim)
        case "dangling link":
            lock.symlink_to(tmp_path / "new")
        case "hard link":
            lock.hardlink_to(victim)
        case "pipe":
            os.mkfifo(lock)
        case "directory":
            lock.mkdir()
        case _:
            if os.geteuid() != 0:
                pytest.skip("only root makes devices")
            os.mknod(lock, stat.S_IFCHR | 0o600, os.makedev(5, 2))  # /dev/ptmx
    descriptors = fd_count(os.getpid())
    for _ in range(5):
        with pytest.raises(OSError, match=r"\.s\.tunnels-lock in the same directory is not a lock file of this user"):
            await bind(LocalUnix(str(tmp_path / "s"), 0o600, ""))
    assert fd_count(os.getpid()) == descriptors
    assert os.path.lexists(lock)
    assert victim.read_text() == "precious\n"
    assert not (tmp_path / "new").exists()


@needs_root
async def test_another_users_lock_file_is_reported() -> None:
    with shared_directory() as directory:
        lock = directory / ".s.tunnels-lock"
        lock.write_text("")
        os.chown(lock, NOBODY, NOBODY)
        with pytest.raises(OSError, match="remove it"):
            await bind(LocalUnix(str(directory / "s"), 0o600, ""))
        assert lock.stat().st_uid == NOBODY


@pytest.mark.parametrize(
    "path", ["/tmp/a\0b", "/tmp/\ud800", "/", "/tmp/..", "/tmp/x/", "/tmp/" + "x" * 200, "\0abstract"]
)
async def test_a_path_that_no_socket_can_have_is_an_error(path: str) -> None:
    with pytest.raises(OSError, match="path"):
        await bind(LocalUnix(path, 0o600, ""))


@pytest.mark.parametrize("group", ["²", "4294967295", "9" * 5000, "a\0b", "no such group"])
async def test_an_impossible_group_is_an_error(tmp_path: Path, group: str) -> None:
    with pytest.raises(OSError, match="group"):
        await bind(LocalUnix(str(tmp_path / "s"), 0o600, group))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
async def test_a_socket_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    for mask in (0o000, 0o022, 0o027, 0o077):
        before = os.umask(mask)
        try:
            bound = await bind(LocalUnix(str(tmp_path / "s"), mode, ""))
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "s").lstat().st_mode) == mode
        bound.close()
    assert not list(tmp_path.iterdir())


async def test_a_path_of_the_greatest_length_is_bound(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    bound = await bind(LocalUnix(str(path), 0o600, ""))
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    finally:
        bound.close()
    assert not list(tmp_path.iterdir())


async def test_a_socket_in_a_removed_directory_can_be_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "d").mkdir()
    descriptors = fd_count(os.getpid())
    bound = await bind(LocalUnix(str(tmp_path / "d" / "s"), 0o600, ""))
    (tmp_path / "d").rename(tmp_path / "elsewhere")
    bound.close()
    assert fd_count(os.getpid()) == descriptors
    assert "cannot remove the socket" in caplog.text


async def test_a_socket_is_bound_where_proc_is_not_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems such as macOS have no /proc."""
    from reconciler.system import unix_listener

    monkeypatch.setattr(unix_listener, "_DESCRIPTORS", "/nowhere")
    bound = await bind(LocalUnix(str(tmp_path / "s"), 0o600, ""))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    bound.close()
    assert not list(tmp_path.iterdir())


def leave_stale(path: Path) -> None:
    """Leave the socket of a killed process at the path."""
    leave = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", leave, str(path)], check=False).returncode == 9
