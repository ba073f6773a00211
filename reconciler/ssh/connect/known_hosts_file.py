"""known_hosts files on disk: reading them, and adding a line to one.

A line is added by replacing the file at once: content, mode and owner stay. Links in the path are followed first;
then everything happens relative to the descriptor of the directory, and no link is followed any more, so that a link
put there meanwhile leads nowhere. A file is made only at the default place, `~/.ssh/known_hosts`: elsewhere the author
of a configuration would choose which files exist. All functions block as files do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.ssh.connect.credential_fingerprint import KNOWN_HOSTS_MAX
from reconciler.ssh.connect.known_hosts import foreign_line
from reconciler.system import path_lock
from reconciler.system.file_calls import read

_LOCK_TRIES = 100  # of another process, which needs the lock for reading and writing one small file
_LOCK_PAUSE = 0.02  # seconds
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)  # of a file system
_TO_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_SHOWN = 200  # bytes of the name in a temporary file's, which is at most 255 long


async def contents(paths: tuple[str, ...]) -> dict[str, bytes]:
    """The files that are there. Raises OSError, with its `filename`, for one that cannot be read."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = await read(path, KNOWN_HOSTS_MAX)
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A known_hosts file that nobody else adds to. `status`: None where there is no file yet."""

    content: bytes
    status: os.stat_result | None
    _directory: int
    _name: str

    def add(self, line: str) -> int:
        """Add the line and return its number. Raises OSError; then nothing has changed."""
        before = self.content + (b"" if self.content.endswith(b"\n") or not self.content else b"\n")
        temporary = f".{os.fsencode(self._name)[:_NAME_SHOWN].decode(errors='ignore')}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, _TO_MAKE, 0o600, dir_fd=self._directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(before + line.encode("ascii") + b"\n")
                self._dress(file.fileno())
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

    def _dress(self, descriptor: int) -> None:
        """Give it mode and owner of the file that it replaces."""
        if self.status is None:
            return
        os.fchmod(descriptor, stat.S_IMODE(self.status.st_mode) & 0o777)
        if (self.status.st_uid, self.status.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, self.status.st_uid, self.status.st_gid)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Opened]:
    """Open a known_hosts file for adding to it.

    Raises BlockingIOError where another process stays in it, FileNotFoundError where it would have to be made and may
    not be, another OSError, and ValueError for a file that holds anything else than known hosts, as a shell's or a
    list of keys that may log in would.
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
    """Where a new file may be made."""
    return os.path.normpath(Path("~/.ssh/known_hosts").expanduser()) if os.path.expanduser("~") != "~" else ""  # noqa: PTH111


def _open_directory(path: str) -> int:
    """Open a resolved path. A link in it was put there since, and is not followed."""
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
    """Alone among those who add to this file. Raises BlockingIOError where another one stays.

    The lock is a file of this user's beside it: known_hosts itself is replaced, and a directory that others may read
    could be locked by them. Where files cannot be locked a change by another process is noticed before the file is
    replaced.
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
    """The content and the status of the file, if there is one. Raises ValueError for one that is not to be added to."""
    status = _status(directory, name)
    if status is None:
        return b"", None
    if not stat.S_ISREG(status.st_mode):  # before the open, which has effects on some devices
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
        raise ValueError(f"line {number} of it is not a known_hosts line")
    return content, status


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _version(status: os.stat_result | None) -> tuple[int, ...]:
    """What differs once the name leads to another file, or the file has another content."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status is not None else ()
