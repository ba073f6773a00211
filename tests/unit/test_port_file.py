"""Port files: only files that this program wrote are replaced, and no others are opened."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.system.port_file import NotPortFileError, write_port_file
from support.other_user import NOBODY, needs_root, other_user, shared_directory
from support.wait import fd_count


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def a_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(5, 2))  # /dev/ptmx


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def a_link(path: Path) -> None:
    write_port_file(str(path.with_name("a port file")), 1)
    path.symlink_to(path.with_name("a port file"))


def a_port_file_that_was_edited(path: Path) -> None:
    write_port_file(str(path), 1)
    path.chmod(0o644)
    path.write_text("2\n")


def a_read_only_pid_file(path: Path) -> None:
    path.write_text("1234\n")
    path.chmod(0o444)


def a_read_only_text(path: Path) -> None:
    path.write_text("text")
    path.chmod(0o444)
    os.utime(path, (1_000_000, 1_000_000))


FOREIGN: dict[str, Callable[[Path], object]] = {
    "pid file": lambda path: path.write_text("1234\n"),
    "read-only pid file": a_read_only_pid_file,
    "pid file without an end of line": lambda path: path.write_text("1234"),
    "empty file": lambda path: path.write_text(""),
    "text": lambda path: path.write_text("ssh-ed25519 AAAA me\n"),
    "read-only text": a_read_only_text,
    "edited port file": a_port_file_that_was_edited,
    "large file": lambda path: path.write_bytes(bytes(1 << 20)),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "socket": a_socket,
    "device": a_device,
    "link": a_link,
    "dangling link": a_dangling_link,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_program_stays_unchanged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "echo.port"
    FOREIGN[kind](path)
    before, content = path.lstat(), path.read_bytes() if path.is_file() else b""
    entries, descriptors = sorted(tmp_path.iterdir()), fd_count(os.getpid())
    for _ in range(20):
        with pytest.raises(NotPortFileError, match="stays unchanged: remove it"):
            write_port_file(str(path), 8080)
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert not path.is_file() or path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == entries, "no temporary file is left"
    assert fd_count(os.getpid()) == descriptors


@pytest.mark.parametrize(
    "path", ["/dev/ptmx", "/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/fd/0", "/proc/uptime"]
)
def test_a_system_file_stays_unchanged(path: str) -> None:
    before = Path(path).lstat().st_mode
    descriptors = fd_count(os.getpid())
    with pytest.raises(OSError, match="stays unchanged"):
        write_port_file(path, 8080)
    assert Path(path).lstat().st_mode == before
    assert fd_count(os.getpid()) == descriptors


@pytest.mark.parametrize("path", ["/dev/null/x", "/tmp/a\0b", "/tmp/\ud800", "/", "/tmp/..", "/tmp/x/", "/proc/x/y"])
def test_a_path_that_cannot_be_written_is_an_error(path: str) -> None:
    with pytest.raises(OSError, match=r"."):
        write_port_file(path, 8080)


def test_a_path_of_any_depth_is_written_or_an_error(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a"] * 1500, "echo.port")
    write_port_file(str(deep), 8080)
    assert deep.read_text() == "8080\n"
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # shutil.rmtree recurses for each part of the path
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        write_port_file(str(tmp_path) + "/a" * 100_000, 8080)


def test_a_name_of_the_greatest_length_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_port_file(str(path), 8080)
    write_port_file(str(path), 8081)
    assert path.read_text() == "8081\n"


def test_a_port_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "echo.port"
    write = (
        "import os, sys; from reconciler.system.port_file import write_port_file; "
        "write_port_file(sys.argv[1], 65535); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", write, str(path)], check=False).returncode == 9
    assert path.read_text() == "65535\n"
    write_port_file(str(path), 7)
    assert path.read_text() == "7\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["echo.port"]


def test_all_users_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_port_file(str(tmp_path / "echo.port"), 8080)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "echo.port").stat().st_mode) == 0o444


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_created_during_the_write_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "echo.port"
    link = os.link

    def exchanged(*arguments: str, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        path.write_text("precious\n")
        if not links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        link(*arguments, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", exchanged)
    with pytest.raises(NotPortFileError, match="another program has just created it"):
        write_port_file(str(path), 8080)
    assert path.read_text() == "precious\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["echo.port"]


def test_a_file_system_without_hard_links_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    for port in (1, 2):
        write_port_file(str(tmp_path / "echo.port"), port)
        assert (tmp_path / "echo.port").read_text() == f"{port}\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["echo.port"]


def test_a_reader_always_sees_a_whole_port(tmp_path: Path) -> None:
    path, wrong = tmp_path / "echo.port", list[str]()
    write_port_file(str(path), 10000)
    written = threading.Event()

    def read() -> None:
        while not written.is_set():
            if (text := path.read_text()) not in ("10000\n", "20000\n"):
                wrong.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(300):
            write_port_file(str(path), 10000 if turn % 2 else 20000)
    finally:
        written.set()
        reader.join()
    assert not wrong


EXCHANGE = """
directory, victim = sys.argv[1:3]
os.chdir(directory)
print("ready", flush=True)
until, rounds = time.monotonic() + 60, 0
while time.monotonic() < until:
    rounds += 1
    for found in {"p", *os.listdir(".")}:
        try:
            if found == "p" or found.startswith(".tunnels-"):
                os.rename(found, "aside") if os.path.lexists(found) and rounds % 3 else None
                os.symlink(victim, found) if rounds % 2 else os.link("aside", found)
        except OSError:
            pass
"""


@needs_root
@pytest.mark.parametrize(("mode", "owner"), [(0o1777, 0), (0o777, 0), (0o755, NOBODY)])
def test_links_exchanged_during_the_write_change_no_other_file(mode: int, owner: int) -> None:
    descriptors = fd_count(os.getpid())
    with shared_directory(0o755) as home, shared_directory(mode, owner) as shared:
        victim = home / "victim"
        victim.write_text("precious\n")
        victim.chmod(0o600)
        before = victim.lstat()
        with other_user(EXCHANGE, shared, victim):
            for _ in range(400):
                try:
                    write_port_file(str(shared / "p"), 8080)
                except OSError:
                    continue
        after = victim.lstat()
        assert victim.read_text() == "precious\n"
        assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
        assert [entry.name for entry in home.iterdir()] == ["victim"]
    assert fd_count(os.getpid()) <= descriptors


@needs_root
def test_another_users_port_file_stays_unchanged() -> None:
    with shared_directory() as shared:
        path = shared / "echo.port"
        write_port_file(str(path), 1)
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(NotPortFileError, match=f"it belongs to uid {NOBODY}"):
            write_port_file(str(path), 2)
        assert path.read_text() == "1\n"
