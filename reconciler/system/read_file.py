"""Reads files that a configuration names: regular files only, up to a size limit.

A path from a configuration may name an endless device (/dev/zero), a pipe without a writer, a terminal or a sparse
file of terabytes. Opening some devices has side effects (/dev/ptmx allocates a terminal), so the type is checked
before the open and again after it. Symbolic links are followed.

These functions block. On an unreachable network file system they block for ever, so the event loop calls them in a
thread, with a deadline (`file_calls.py`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

_CHUNK = 1 << 20  # bytes for each read call
_DIGEST_CHUNK = 1 << 16  # bytes for each read call of `digest_regular`

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularFileError(OSError):
    """The path is not a regular file. `strerror` says what it is."""


class FileTooLargeError(OSError):
    """The file is larger than the limit. `strerror` says the limit."""


class OutsideError(OSError):
    """The file lies outside the required directory. `strerror` names the directory."""


def open_regular(path: str) -> int:
    """Open a regular file for reading and return its descriptor. The caller closes it.

    Raises NotRegularFileError for any other kind of file, OSError if the file cannot be opened.
    """
    try:
        status = Path(path).stat()
    except ValueError:
        raise OSError(errno.EINVAL, "its name holds a NUL", path) from None
    _require_regular(status, path)
    # O_NONBLOCK: the path may have become a pipe since the check, and opening one waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str, limit: int, within: str = "") -> bytes:
    """Return the content of a regular file of at most `limit` bytes, inside the directory `within` if given.

    Raises NotRegularFileError, FileTooLargeError, OutsideError, or another OSError if the file cannot be read. The
    size is counted while reading, because files under /proc report a size of 0. Some files under /proc block; with
    O_NONBLOCK they raise BlockingIOError instead.
    """
    content = bytearray()
    for chunk in _chunks(path, limit, within, _CHUNK):
        content += chunk
    return bytes(content)


def digest_regular(path: str, limit: int) -> bytes:
    """Return the SHA-256 of a regular file of at most `limit` bytes. Raises as `read_regular` does.

    The content is not kept in memory: hundreds of threads may hash large files at once.
    """
    digest = hashlib.sha256()
    for chunk in _chunks(path, limit, "", _DIGEST_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _chunks(path: str, limit: int, within: str, size: int) -> Iterator[bytes]:
    descriptor = open_regular(path)
    try:
        if within:
            _require_inside(descriptor, path, within)
        left = limit
        while chunk := os.read(descriptor, min(size, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise FileTooLargeError(errno.EFBIG, f"larger than {_shown_size(limit)}", path)
            yield chunk
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "a special file")
        raise NotRegularFileError(errno.EINVAL, f"it is {kind}, expected a regular file", path)


def _require_inside(descriptor: int, path: str, directory: str) -> None:
    """Check where the opened file lies. The path may have changed since it was checked."""
    try:
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:  # not Linux: the path must still lead to the opened file
        real = Path(os.path.realpath(path))
        if not os.path.samestat(os.fstat(descriptor), real.stat()):
            raise OutsideError(errno.EACCES, "another file replaced it while it was opened", path) from None
    if not real.is_relative_to(os.path.realpath(directory)):
        raise OutsideError(errno.EACCES, f"it is outside {directory} (--secrets-dir)", path)


def _shown_size(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"
