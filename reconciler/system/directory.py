"""Directories as descriptors: what is made, changed or removed in one is named relative to the opened directory.

A path is resolved anew at each call, and another user who may write to one of its directories can exchange a part of
it for a symbolic link between two calls. A descriptor stays on the directory that was opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from reconciler.system.redaction import redact

_LONGEST = 4095  # bytes of a path: PATH_MAX of Linux, without the NUL. Elsewhere it is less, and the system says so
_SHOWN = 100
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def opened_parent(path: str) -> Iterator[tuple[int, str]]:
    """Open the directory that a path lies in. Yields its descriptor and the path's last part. Raises OSError.

    Links in the directory's own path are followed, as for every other program.
    """
    check_path(path)
    directory = os.open(Path(path).parent, _FLAGS)
    try:
        yield directory, Path(path).name
    finally:
        os.close(directory)


def check_path(path: str) -> None:
    """Raise OSError unless the path can name a file: no NUL byte (C would end the path there), no missing name."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise OSError(errno.EINVAL, "the path has characters that no file name has", path) from None
    if len(encoded) > _LONGEST:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), redact(path)[:_SHOWN] + "...")
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "the path has a NUL character in it", path)
    if Path(path).name in ("", "..") or path.endswith("/"):
        raise OSError(errno.EISDIR, "the path names a directory", path)


def make_parents(path: str) -> None:
    """Make the directory that a path lies in, and those above it, where they are missing. Raises OSError.

    Not `Path.mkdir(parents=True)`: it calls itself for each part of the path, and raises RecursionError at 1,000.
    """
    missing: list[str] = []
    directory = os.path.dirname(path)  # noqa: PTH120 - of a path with thousands of parts, at each of them
    while directory and not os.path.lexists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)  # noqa: PTH120
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            Path(directory).mkdir(mode=0o755)


@contextlib.contextmanager
def private_directory(parent: int) -> Iterator[tuple[int, str]]:
    """Make an empty directory in `parent` that no other user can enter. Yields its descriptor and its name.

    What is made in it can be given its mode and owner without another user exchanging it meanwhile; a rename then
    publishes it. The directory is removed at the end. Raises OSError.
    """
    name = temporary_name()
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        directory = os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=parent)
        try:
            _require_private(directory, name)
            yield directory, name
        finally:
            os.close(directory)
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=parent)


def temporary_name() -> str:
    """Return a name that nothing has yet, and which tells whose it is should a killed process leave it behind."""
    return f".tunnels-{secrets.token_hex(6)}"


def lstat_in(directory: int, name: str) -> os.stat_result | None:
    """Return the status of a directory's entry (of the link itself, if it is one); None: there is no such entry."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def unlink_if_same(directory: int, name: str, status: os.stat_result) -> None:
    """Remove a directory's entry if it still is the file of that status."""
    found = lstat_in(directory, name)
    if found is not None and os.path.samestat(found, status):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def place(source: int, temporary: str, target: int, name: str, *, replace: bool) -> None:
    """Publish a finished file of one directory under its name in another (or the same) one, at once and whole.

    Without `replace` FileExistsError is raised if there is anything under the name. A file system without hard links
    has no such call: what another program puts there in that very moment is then replaced.
    """
    if not replace:
        try:
            os.link(temporary, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            if lstat_in(target, name) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        else:
            os.unlink(temporary, dir_fd=source)
            return
    os.replace(temporary, name, src_dir_fd=source, dst_dir_fd=target)


def _require_private(directory: int, name: str) -> None:
    """In a directory where others may remove what is ours, the one that was opened may not be the one that was made."""
    status = os.fstat(directory)
    is_private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    if not is_private or os.listdir(directory):
        raise PermissionError(errno.EPERM, "another user exchanged a directory that was just made", name)
