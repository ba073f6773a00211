"""A lock for a path, held by one process at a time: an empty file beside it, locked with flock(2).

The lock file is opened without following links and must be a regular file of this user's with one name. Nothing is
ever written to it, so that a file that another user put in its place cannot lose its content.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from reconciler.system.directory import lstat_in, unlink_if_same

# O_NONBLOCK: opening a pipe that somebody put there must not wait.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def acquire(directory: int, name: str) -> int:
    """Lock the path of that name in the directory and return the lock's descriptor.

    Raises OSError: EADDRINUSE if another process holds the lock, EEXIST if something else is where the lock file is
    to be.
    """
    lock = _lock_name(name)
    before = lstat_in(directory, lock)
    if before is not None:  # opening a device may do something
        _require_lock_file(before, lock)
    try:
        descriptor = os.open(lock, _FLAGS, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK):
            raise _in_the_way(lock) from None
        raise
    try:
        status = os.fstat(descriptor)
        _require_lock_file(status, lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(status, os.stat(lock, dir_fd=directory, follow_symlinks=False)):
            raise BlockingIOError  # noqa: TRY301 - its holder has just removed it: the next try makes another
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), name) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlink(directory: int, name: str, lock: int) -> None:
    """Remove the lock file, if it is still the one that is locked, and empty. Closing the descriptor ends the lock.

    Raises OSError.
    """
    status = os.fstat(lock)
    if not status.st_size:
        unlink_if_same(directory, _lock_name(name), status)


def _lock_name(name: str) -> str:
    """Not `name.lock`: `poetry` has a `poetry.lock` beside it."""
    return f".{name}.tunnels-lock"


def _require_lock_file(status: os.stat_result, lock: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        raise _in_the_way(lock)


def _in_the_way(lock: str) -> OSError:
    return OSError(errno.EEXIST, f"{lock} beside it is not a lock file of this user's: remove it", lock)
