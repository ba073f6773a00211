"""known_hosts files on disk: reading them, and adding a line to one.

A line is added by replacing the file atomically; content, mode and owner stay. Links in the path are resolved first.
Then every call is relative to the descriptor of the directory and follows no link, so that a link that is put there
meanwhile has no effect. A file is created only at the default path, `~/.ssh/known_hosts`: elsewhere the author of a
configuration would choose which files exist. All functions block.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.text import key_text
from reconciler.ssh.connect.credential_fingerprint import KNOWN_HOSTS_MAX
from reconciler.ssh.connect.known_hosts import foreign_line
from reconciler.system import path_lock
from reconciler.system.file_calls import read

# For 2 s in all: another process holds the lock only while it reads and writes one small file.
_LOCK_TRIES, _LOCK_PAUSE = 100, 0.02  # seconds between two tries
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)  # a file system without locks
_TO_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_SHOWN = 200  # bytes of the file's name that the temporary name begins with; a name has at most 255 bytes


async def contents(paths: tuple[str, ...]) -> dict[str, bytes]:
    """The content of the files that exist. Raises OSError with `filename` for one that cannot be read."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = await read(path, KNOWN_HOSTS_MAX)
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A known_hosts file, locked for adding. `status` is None if there is no file yet."""

    content: bytes
    status: os.stat_result | None
    _directory: int
    _name: str

    def add(self, line: str) -> int:
        """Add the line and return its number. Raises OSError without changing anything."""
        before = self.content + (b"" if self.content.endswith(b"\n") or not self.content else b"\n")
        temporary = f".{os.fsencode(self._name)[:_NAME_SHOWN].decode(errors='ignore')}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, _TO_MAKE, 0o600, dir_fd=self._directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(before + line.encode("ascii") + b"\n")
                self._copy_mode_and_owner(file.fileno())
                file.flush()
                os.fsync(file.fileno())
            self._check_unchanged()
            os.replace(temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._directory)
            raise
        return before.count(b"\n") + 1

    def _check_unchanged(self) -> None:
        if _version(_status(self._directory, self._name)) != _version(self.status):
            raise BlockingIOError(errno.EAGAIN, "it was changed meanwhile")

    def _copy_mode_and_owner(self, descriptor: int) -> None:
        """Copy mode and owner of the file that is replaced."""
        if self.status is None:
            return
        os.fchmod(descriptor, stat.S_IMODE(self.status.st_mode) & 0o777)
        if (self.status.st_uid, self.status.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, self.status.st_uid, self.status.st_gid)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Opened]:
    """Open a known_hosts file for adding to it.

    Raises BlockingIOError if another process keeps its lock, FileNotFoundError if it does not exist and may not be
    created, another OSError, and ValueError for a file that contains anything but known hosts, such as a shell's
    startup file or authorized_keys.
    """
    directory, name = os.path.split(os.path.realpath(path))
    is_default = path == default_path()
    if is_default:
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        descriptor = _open_directory(directory)
        stack.callback(os.close, descriptor)
        stack.enter_context(_locked(descriptor, name))
        content, status = _read(descriptor, name)
        if status is None and not is_default:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", path)
        yield Opened(content, status, descriptor, name)


def default_path() -> str:
    """The only path where a new file may be created, "" if there is no home directory."""
    return os.path.normpath(Path("~/.ssh/known_hosts").expanduser()) if os.path.expanduser("~") != "~" else ""  # noqa: PTH111


def _open_directory(path: str) -> int:
    """Open a resolved path without following links: a link in it was created after the path was resolved."""
    descriptor = os.open("/", _TO_DIRECTORY)
    for part in Path(path).parts[1:]:
        above = descriptor
        try:
            descriptor = os.open(part, _TO_DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


@contextlib.contextmanager
def _locked(directory: int, name: str) -> Iterator[None]:
    """Hold the lock of this file, so that no other process adds to it. Raises BlockingIOError if one keeps the lock.

    The lock is a file of this user beside it: known_hosts itself is replaced, and other users could lock a directory
    that they may read. On a file system without locks, a change by another process is detected before the replacement.
    """
    lock = _lock(directory, name)
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                path_lock.unlink(directory, name, lock)
            os.close(lock)


def _lock(directory: int, name: str) -> int | None:
    for _ in range(_LOCK_TRIES):
        try:
            return path_lock.acquire(directory, name)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            if error.errno != errno.EADDRINUSE:
                raise
        time.sleep(_LOCK_PAUSE)
    raise BlockingIOError(errno.EAGAIN, "another process holds its lock", name)


def _read(directory: int, name: str) -> tuple[bytes, os.stat_result | None]:
    """The content and status of the file, if it exists. Raises ValueError if nothing may be added to it."""
    status = _status(directory, name)
    if status is None:
        return b"", None
    if not stat.S_ISREG(status.st_mode):  # before opening it, which has effects on some devices
        raise ValueError("it is not a regular file")
    descriptor = os.open(name, _TO_READ, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(KNOWN_HOSTS_MAX + 1)
    if len(content) > KNOWN_HOSTS_MAX:
        raise ValueError(f"it is larger than {KNOWN_HOSTS_MAX >> 20} MiB")
    if number := foreign_line(content.decode("utf-8", "replace")):
        raise ValueError(f"line {number} is not a known_hosts line")
    if key_text.known_hosts(content) not in (content, content.removeprefix(codecs.BOM_UTF8)):
        # Lines in another form would not be found beside an added one.
        raise ValueError("it is encoded, or its line ends are missing")
    return content, status


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _version(status: os.stat_result | None) -> tuple[int, ...]:
    """A value that differs if the name leads to another file, or the content has changed."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status is not None else ()
