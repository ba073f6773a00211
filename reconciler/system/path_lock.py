"""Locks a path for one process at a time: flock(2) on an empty file in the same directory.

The lock file is opened without following links. It must be a regular file of this user with a single hard link.
Nothing is written to it, so a file that another user put in its place keeps its content.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from reconciler.system.directory import lstat_in, unlink_if_same

# O_NONBLOCK: opening a pipe in the lock file's place must not wait.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def acquire(directory: int, name: str) -> int:
    """Lock the entry `name` of the directory and return the lock's descriptor.

    Raises OSError: EADDRINUSE if another process holds the lock, EEXIST if another file has the lock file's name.
    """
    lock = _lock_name(name)
    before = lstat_in(directory, lock)
    if before is not None:  # opening a device may have side effects
        _require_lock_file(before, lock)
    try:
        descriptor = os.open(lock, _FLAGS, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK):
            raise _not_a_lock_file(lock) from None
        raise
    try:
        status = os.fstat(descriptor)
        _require_lock_file(status, lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(status, os.stat(lock, dir_fd=directory, follow_symlinks=False)):
            raise BlockingIOError  # noqa: TRY301 - its holder has just removed it; the next attempt creates a new one
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), name) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlink(directory: int, name: str, lock: int) -> None:
    """Remove the lock file if it is empty and still the locked one. Raises OSError.

    Closing the descriptor releases the lock.
    """
    status = os.fstat(lock)
    if not status.st_size:
        unlink_if_same(directory, _lock_name(name), status)


def _lock_name(name: str) -> str:
    """Return the lock file's name. Not `name.lock`: a path `poetry` may have a `poetry.lock` beside it."""
    return f".{name}.tunnels-lock"


def _require_lock_file(status: os.stat_result, lock: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        raise _not_a_lock_file(lock)


def _not_a_lock_file(lock: str) -> OSError:
    return OSError(errno.EEXIST, f"{lock} in the same directory is not a lock file of this user: remove it", lock)
