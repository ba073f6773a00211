"""Makes listening unix sockets: created in a private directory, given their mode and group, then linked to their path.

bind(2) creates the socket's file with a mode that depends on the umask, which belongs to the whole process. So the
socket is bound in a directory that no other user can enter. It gets its group and mode and listens there, and is then
linked to its path. chmod(2) and chown(2) on the path itself would follow a link that another user puts in its place.

A socket left by a killed process is replaced. A live socket or another file is not; asyncio would unlink a live socket.
A lock file in the same directory settles a race between two processes of this program. It is held while the socket
lives.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.system import path_lock
from reconciler.system.directory import (
    check_path,
    lstat_in,
    opened_parent,
    place,
    private_directory,
    unlink_if_same,
)

_DESCRIPTORS = "/proc/self/fd"
LONGEST_PATH = 103 if sys.platform == "darwin" else 107  # bytes of sun_path without the final NUL

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnixListener:
    """A socket that listens at `path`."""

    sock: socket.socket
    path: str
    _status: os.stat_result  # of the socket's file
    _lock: int

    def close(self) -> None:
        """Remove the socket's file and the lock file if they are unchanged, and stop listening. Raises nothing."""
        try:
            with opened_parent(self.path) as (directory, name):
                # Before the socket is closed: while it is open, no other file can get its inode number.
                unlink_if_same(directory, name, self._status)
                path_lock.unlink(directory, name, self._lock)
        except OSError as error:
            log.warning("cannot remove the socket %s: %s", self.path, error.strerror)
        self.sock.close()
        os.close(self._lock)  # last: the lock keeps other processes of this program from the path


def listen_unix(path: str, mode: int, group: int, backlog: int) -> UnixListener:
    """Listen at a path with this mode. `group` is a gid, or -1 for the group of the process.

    Raises OSError: EADDRINUSE if a process listens there, EEXIST if the path is another file.
    """
    check_path(path)
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {LONGEST_PATH} bytes", path)
    with opened_parent(path) as (directory, name):
        lock = path_lock.acquire(directory, name)
        try:
            stale = _stale(directory, name, path)
            with private_directory(directory) as (private, private_name):
                if stale is not None:
                    _take_away(directory, name, private, stale)
                private_path = str(Path(path).parent / private_name)
                with _listening(private, private_path, name, mode, group, backlog) as (sock, status, made):
                    _publish(private, made, directory, name)
                    return UnixListener(sock, path, status, lock)
        except BaseException:
            with contextlib.suppress(OSError):
                path_lock.unlink(directory, name, lock)
            os.close(lock)
            raise


@contextlib.contextmanager
def _listening(
    private: int, private_path: str, name: str, mode: int, group: int, backlog: int
) -> Iterator[tuple[socket.socket, os.stat_result, str]]:
    """Yield a socket listening in the private directory, its file's status and name. Close it if the block raises."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = ""
    try:
        sock.setblocking(False)
        address, made = _address_in(private, private_path, name)
        sock.bind(address)
        if group >= 0:
            os.chown(made, -1, group, dir_fd=private, follow_symlinks=False)
        os.chmod(made, mode, dir_fd=private)
        sock.listen(backlog)
        yield sock, os.stat(made, dir_fd=private, follow_symlinks=False), made
    except BaseException:
        sock.close()
        if made:
            with contextlib.suppress(OSError):
                os.unlink(made, dir_fd=private)
        raise


def _address_in(private: int, private_path: str, name: str) -> tuple[str, str]:
    """Return an address for bind(2), and the name of the file that it makes in the private directory.

    `ss` shows this address for the socket, so it ends in the real name if that fits. Linux has a path for an opened
    directory (/proc/self/fd). Other systems need the directory's own path: if another user replaces that directory,
    bind makes the socket elsewhere, and the chmod after it raises because the opened directory is empty.
    """
    through = f"{_DESCRIPTORS}/{private}"
    try:
        is_through = os.path.samestat(Path(through).stat(), os.fstat(private))
    except OSError:
        is_through = False
    directory = through if is_through else private_path
    whole = f"{directory}/{name}"
    return (whole, name) if len(os.fsencode(whole)) <= LONGEST_PATH else (f"{directory}/s", "s")


def _stale(directory: int, name: str, path: str) -> os.stat_result | None:
    """Return the status of a socket file without a listener, or None if the path is free. Raises OSError otherwise."""
    status = lstat_in(directory, name)
    if status is None:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "a file that is not a socket exists there", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return status
        except FileNotFoundError:
            return None
        except BlockingIOError:
            pass  # the backlog is full, so a process listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _take_away(directory: int, name: str, private: int, stale: os.stat_result) -> None:
    """Remove the stale socket, but not a file that another program has put there since the check."""
    try:
        os.rename(name, "stale", src_dir_fd=directory, dst_dir_fd=private)
    except FileNotFoundError:
        return
    if _is_same(stale, os.stat("stale", dir_fd=private, follow_symlinks=False)):
        os.unlink("stale", dir_fd=private)
    else:
        place(private, "stale", directory, name, replace=False)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), name)


def _is_same(before: os.stat_result, now: os.stat_result) -> bool:
    """Compare the modification time too: a new file often gets the inode number of one that was just removed."""
    is_as_before = stat.S_ISSOCK(now.st_mode) and now.st_mtime_ns == before.st_mtime_ns
    return os.path.samestat(before, now) and is_as_before


def _publish(private: int, made: str, directory: int, name: str) -> None:
    try:
        place(private, made, directory, name, replace=False)
    except FileExistsError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), name) from None
