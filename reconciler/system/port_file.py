"""Port files: small files that tell a port to other programs, replaced only if this program wrote them.

A wrong path must not cost anybody a file, and a port looks like much else: a pid file holds a number and a line end,
too. So a port file carries marks that programs do not leave by chance: mode 0444, and a modification time without a
fraction of a second. They need nothing but the file itself, so that a process that was killed finds its file again.
Anything else under the path is left alone: a directory, a device, a pipe, a socket, a link, another user's file, an
empty one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time

from reconciler.system.directory import check_path, lstat_in, make_parents, opened_parent, place, temporary_name

_MODE = 0o444
_SECOND = 1_000_000_000
_PORT = re.compile(rb"[1-9][0-9]{0,4}\n")
_LONGEST = 6  # bytes
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotPortFileError(OSError):
    """Something else is under the path. `strerror` names what it is, and what would be right."""


def write_port_file(path: str, port: int) -> None:
    """Write a port to a file; its directory is made where there is none. A reader sees the old or the new one, whole.

    Raises NotPortFileError if something else is there, another OSError if the file cannot be written. It blocks as
    files do.
    """
    check_path(path)
    make_parents(path)
    with opened_parent(path) as (directory, name):
        is_there = _require_port_file(directory, name, path)
        temporary = temporary_name()
        descriptor = os.open(temporary, _NEW, 0o600, dir_fd=directory)
        try:
            try:
                os.write(descriptor, f"{port}\n".encode())
                now = int(time.time()) * _SECOND
                os.utime(descriptor, ns=(now, now))
                os.fchmod(descriptor, _MODE)
            finally:
                os.close(descriptor)
            place(directory, temporary, directory, name, replace=is_there)
        except FileExistsError:
            raise _not_ours("another program has just made it", path) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)


def _require_port_file(directory: int, name: str, path: str) -> bool:
    """Return True if a port file of ours is there, False if nothing is; raise NotPortFileError otherwise.

    The type is looked at first: opening a device may do something, and opening a pipe may wait.
    """
    status = lstat_in(directory, name)
    if status is None:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise _not_ours(_kind(status.st_mode), path)
    if status.st_uid != os.geteuid():
        raise _not_ours(f"it belongs to uid {status.st_uid}", path)
    if stat.S_IMODE(status.st_mode) != _MODE or status.st_mtime_ns % _SECOND or status.st_size > _LONGEST:
        raise _not_ours("it holds something else than a port that this program wrote", path)
    descriptor = os.open(name, _OLD, dir_fd=directory)
    try:
        is_same = os.path.samestat(status, os.fstat(descriptor))
        if not is_same or _PORT.fullmatch(os.read(descriptor, _LONGEST + 1)) is None:
            raise _not_ours("it holds something else than a port", path)
    finally:
        os.close(descriptor)
    return True


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "it is a symbolic link"
    if stat.S_ISDIR(mode):
        return "it is a directory"
    return "it is a pipe, a socket or a device"


def _not_ours(what: str, path: str) -> NotPortFileError:
    text = f"{what}, and is left alone: remove it, or name a file that is not there yet"
    return NotPortFileError(errno.EEXIST, text, path)
