"""Writes port files: small files from which other programs read a port. Replaces only files that this program wrote.

A mistyped path must not destroy another file, and content alone is no proof: a pid file is a number and a newline too.
So a port file has two marks that other programs do not leave by chance: mode 0444, and a modification time without a
fraction of a second. The marks are in the file itself, so a restarted process recognises the file of a killed one.
Anything else at the path stays as it is: a directory, device, pipe, socket, link, empty file or another user's file.
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
    """The path exists and is not a port file. `strerror` says what it is and what to do."""


def write_port_file(path: str, port: int) -> None:
    """Write a port to a file atomically, and create missing parent directories. Blocks as file calls do.

    Raises NotPortFileError if the path exists and is not a port file, another OSError if the file cannot be written.
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
            raise _not_port_file("another program has just created it", path) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)


def _require_port_file(directory: int, name: str, path: str) -> bool:
    """Return True if the path is a port file, False if it does not exist. Raises NotPortFileError otherwise.

    The type is checked before the open: opening a device may have side effects, and opening a pipe may wait.
    """
    status = lstat_in(directory, name)
    if status is None:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise _not_port_file(_kind(status.st_mode), path)
    if status.st_uid != os.geteuid():
        raise _not_port_file(f"it belongs to uid {status.st_uid}", path)
    if stat.S_IMODE(status.st_mode) != _MODE or status.st_mtime_ns % _SECOND or status.st_size > _LONGEST:
        raise _not_port_file("it does not hold a port that this program wrote", path)
    descriptor = os.open(name, _OLD, dir_fd=directory)
    try:
        is_same = os.path.samestat(status, os.fstat(descriptor))
        if not is_same or _PORT.fullmatch(os.read(descriptor, _LONGEST + 1)) is None:
            raise _not_port_file("it does not hold a port", path)
    finally:
        os.close(descriptor)
    return True


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "it is a symbolic link"
    if stat.S_ISDIR(mode):
        return "it is a directory"
    return "it is a pipe, a socket or a device"


def _not_port_file(what: str, path: str) -> NotPortFileError:
    text = f"{what} and stays unchanged: remove it, or name a file that does not exist"
    return NotPortFileError(errno.EEXIST, text, path)
