"""Creates, changes and removes files relative to an opened directory.

The kernel resolves a path at each call. Between two calls, another user with write permission in one of its
directories can replace a part of it by a symbolic link. A descriptor stays on the directory that was opened.
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

_LONGEST = 4095  # bytes: PATH_MAX of Linux without the NUL. Other systems have a lower limit and raise OSError
_SHOWN = 100
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def opened_parent(path: str) -> Iterator[tuple[int, str]]:
    """Open the parent directory of a path. Yields its descriptor and the path's last part. Raises OSError.

    Symbolic links in the directory's own path are followed.
    """
    check_path(path)
    directory = os.open(Path(path).parent, _FLAGS)
    try:
        yield directory, Path(path).name
    finally:
        os.close(directory)


def check_path(path: str) -> None:
    """Raise OSError unless the path can name a file: it has a last part and no NUL byte (C ends the path there)."""
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
    """Create the missing parent directories of a path. Raises OSError.

    Not `Path.mkdir(parents=True)`: it recurses for each part of the path and raises RecursionError at 1,000 parts.
    """
    missing: list[str] = []
    directory = os.path.dirname(path)  # noqa: PTH120 - a Path for each of thousands of parts is slow
    while directory and not os.path.lexists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)  # noqa: PTH120
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            Path(directory).mkdir(mode=0o755)


@contextlib.contextmanager
def private_directory(parent: int) -> Iterator[tuple[int, str]]:
    """Create an empty directory in `parent` that no other user can enter. Yields its descriptor and its name.

    A file in it can get its mode and owner while no other user can replace it. A rename then publishes it. The
    directory is removed at the end. Raises OSError.
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
    """Return an unused file name. Its prefix names this program, in case a killed process leaves the file behind."""
    return f".tunnels-{secrets.token_hex(6)}"


def lstat_in(directory: int, name: str) -> os.stat_result | None:
    """Return the status of a directory's entry, without following a link, or None if there is no such entry."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def unlink_if_same(directory: int, name: str, status: os.stat_result) -> None:
    """Remove a directory's entry if it is still the file with that status."""
    found = lstat_in(directory, name)
    if found is not None and os.path.samestat(found, status):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def place(source: int, temporary: str, target: int, name: str, *, replace: bool) -> None:
    """Publish a finished file under `name` in the target directory in one atomic step.

    Without `replace`, raises FileExistsError if the name exists. A file system without hard links has no such atomic
    call: there, a file that another program creates at the same moment is replaced.
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
    """Check that the opened directory is the one that was made: other users may be able to rename entries here."""
    status = os.fstat(directory)
    is_private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    if not is_private or os.listdir(directory):
        raise PermissionError(errno.EPERM, "another user replaced a directory that was just made", name)
