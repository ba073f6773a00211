"""Finds the configuration files and reads their bytes.

A file that cannot be read does not count as removed. The files of an unreadable or empty directory may still exist, and
the content of a missing or empty named file is unknown. A file counts as removed only if its directory has others.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from reconciler.config.options import UnknownHomeError, absolute
from reconciler.config.problem import ErrorCode, Location, Problem
from reconciler.config.syntax.yaml_reader import MAX_BYTES, TOO_LARGE
from reconciler.system.file_calls import FILES, read_here
from reconciler.system.read_file import FileTooLargeError, read_regular

STDIN = "-"
_PIPE_IDLE = 10.0  # seconds without data
_PIPE_TOTAL = 60.0  # seconds for the whole content
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Found:
    """One file as it is now: its bytes, or the problem with reading it. `name` is the name that the user gave.

    `once`: it is a pipe, which can be read only once.
    """

    name: str
    directory: str
    data: bytes
    problem: Problem | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one path argument. If there is a `problem`, the files of the last listing are still in use."""

    given: str
    names: tuple[str, ...]
    problem: Problem | None = None


def default_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the first of $TUNNELS_CONFIG, ./tunnels.yaml and $XDG_CONFIG_HOME/tunnels/; () if none exists."""
    if named := environ.get("TUNNELS_CONFIG"):
        return (named,)
    if Path("tunnels.yaml").is_file():
        return ("tunnels.yaml",)
    try:
        config_home = environ.get("XDG_CONFIG_HOME") or absolute("~/.config", "/", environ)
    except UnknownHomeError:
        return ()
    directory = Path(config_home) / "tunnels"
    return (str(directory),) if os.path.isdir(directory) else ()  # noqa: PTH112 - Path.is_dir raises if the name is too long


def listing(given: str, but: str = "") -> Listing:
    """Return the files of a path argument: the path itself, or the sorted *.yaml and *.yml files of a directory.

    `but` is the absolute path of a file of the directory that does not count.
    """
    if given == STDIN:
        return Listing(given, (given,))
    try:
        names = FILES.wait(given, lambda: _names_in(given))
    except OSError as error:
        problem = Problem.at(Location(given), f"cannot be read: {_why(error)}", ErrorCode.UNREADABLE)
        return Listing(given, (), problem=problem)
    if names is None:
        return Listing(given, (given,))
    names = [name for name in names if not but or os.path.abspath(Path(given) / name) != but]  # noqa: PTH100 - resolves `..`
    if not names:
        problem = Problem.at(Location(given), "no *.yaml or *.yml files in this directory", ErrorCode.UNREADABLE)
        return Listing(given, (), problem=problem)
    return Listing(given, tuple(str(Path(given) / name) for name in names))


def _names_in(path: str) -> list[str] | None:
    """Return the names of the configuration files in a directory; None if the path is not a directory.

    Only the name counts: a file that has become a pipe, a directory or a dangling link is unreadable, not removed.
    """
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises in a directory without access
            return None
    except ValueError:  # the path contains a NUL: `find` reports it
        return None
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.name.endswith(_SUFFIXES) and not e.name.startswith("."))


def is_utf8(path: str) -> bool:
    """Return True if the path is valid UTF-8. Linux permits any bytes in a name; metrics and watchfiles do not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_all(listed: Listing) -> list[Found]:
    """Read the files of a listing. They are read at the same time, so that one that hangs does not delay the others."""
    if listed.names == (listed.given,):
        return [find(listed.given)]
    answers = FILES.wait_all(listed.names, lambda name: read_regular(name, MAX_BYTES))
    return [_found(name, answers[name]) for name in listed.names]


def find(name: str) -> Found:
    """Read one file named on the command line, which may also be standard input or a pipe."""
    if name == STDIN:
        return _standard_input("<stdin>", str(Path.cwd()))
    try:
        match FILES.wait(name, lambda: _kind(name)):
            case _Kind.STDIN:
                return _standard_input(name, str(Path(name).absolute().parent))
            case _Kind.PIPE:
                return replace(_found(name, _from_pipe(name)), once=True)
            case _Kind.OTHER:
                return _found(name, read_here(name, MAX_BYTES))
    except OSError as error:
        return _found(name, error)


def _found(name: str, answer: bytes | OSError) -> Found:
    directory = str(Path(name).absolute().parent)
    if not is_utf8(Path(name).name):
        shown = name.encode(errors="backslashreplace").decode()  # logs, metrics and status are UTF-8
        problem = Problem.at(Location(shown), "the file name is not UTF-8: rename the file", ErrorCode.UNREADABLE)
        return Found(shown, directory, b"", problem)
    if isinstance(answer, bytes):
        return Found(name, directory, answer)
    if isinstance(answer, FileTooLargeError):
        return Found(name, directory, b"", Problem.at(Location(name), TOO_LARGE, ErrorCode.SYNTAX))
    problem = Problem.at(Location(name), f"cannot be read: {_why(answer)}", ErrorCode.UNREADABLE)
    return Found(name, directory, b"", problem)


class _Kind(Enum):
    STDIN = auto()
    PIPE = auto()
    OTHER = auto()


def _kind(name: str) -> _Kind:
    """Return the kind of a path. A path such as /dev/stdin is standard input, whatever it is connected to."""
    try:
        status = os.stat(name)  # noqa: PTH116 - raises ValueError only for a NUL
    except ValueError:
        raise OSError(errno.EINVAL, "the file name contains a NUL", name) from None
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return _Kind.OTHER
    if sys.stdin is not None and os.path.samestat(status, os.fstat(0)):
        return _Kind.STDIN
    return _Kind.PIPE if stat.S_ISFIFO(status.st_mode) else _Kind.OTHER


def _from_pipe(name: str) -> bytes:
    """Read a pipe, such as `<(command)`, until its writers have closed it. Raises OSError."""
    content = bytearray()
    deadline = time.monotonic() + _PIPE_TOTAL
    with open(name, "rb", buffering=0, opener=_open_pipe) as pipe:
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        while True:
            left = min(_PIPE_IDLE, deadline - time.monotonic())
            if left <= 0 or not waiting.poll(left * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "timed out waiting for data from the pipe", name)
            piece = pipe.read(MAX_BYTES + 1 - len(content))
            if piece is None:  # another reader took the data
                continue
            content += piece
            if len(content) > MAX_BYTES:
                raise FileTooLargeError(errno.EFBIG, "too large", name)
            if not piece:
                return bytes(content)


def _open_pipe(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no longer a pipe", path)
    return descriptor


def _standard_input(name: str, directory: str) -> Found:
    data, why = b"", "standard input is closed"
    if sys.stdin is not None:  # if None, descriptor 0 is closed or belongs to another file
        try:
            # Not sys.stdin: Python cannot exit while a thread waits in it.
            with open(0, "rb", closefd=False) as file:
                data, why = file.read(MAX_BYTES + 1), ""
        except OSError as error:
            why = _why(error)
    problem = Problem.at(Location(name), f"cannot be read: {why}", ErrorCode.UNREADABLE) if why else None
    return Found(name, directory, data, problem, once=True)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def revision(digests: Iterable[str]) -> str:
    """Return the revision of the content of all files. For a single file it is the sha256 of its content."""
    found = sorted(digests)
    if not found:
        return ""
    return "sha256:" + (found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest())


def _why(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file"
        case PermissionError():
            return "permission denied"
        case IsADirectoryError():
            return "is a directory"
        case OSError(strerror=str(text)):
            return text.lower()
        case _:
            return str(error)
