"""Where the files are, and their bytes: paths given -> what is there now.

A file's absence is told apart from its content: a directory that cannot be read, or is empty, gives no answer at all,
and a file that is missing or empty none about itself; only a file gone from a directory with others in it is really
gone.
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

from reconciler.config.options import absolute
from reconciler.config.problem import ErrorCode, Place, Problem
from reconciler.config.syntax.yaml_reader import MAX_BYTES, TOO_LARGE
from reconciler.system.file_calls import FILES, read_here
from reconciler.system.read_file import FileTooLargeError, read_regular

STDIN = "-"
_PIPE_SILENCE = 10.0  # seconds that nothing comes
_PIPE_TIME = 60.0  # seconds for all of it
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Found:
    """One file as it is now: its bytes, or why there are none. `name` is how the user calls it.

    `once`: it is a pipe, which says what it holds to the first who reads it.
    """

    name: str
    directory: str
    data: bytes
    problem: Problem | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one path given. `problem`: why it gave no answer, so that those of before are still meant."""

    given: str
    names: tuple[str, ...]
    problem: Problem | None = None


def default_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """$TUNNELS_CONFIG, ./tunnels.yaml, $XDG_CONFIG_HOME/tunnels/; empty if there is none of them."""
    if given := environ.get("TUNNELS_CONFIG"):
        return (given,)
    if Path("tunnels.yaml").is_file():
        return ("tunnels.yaml",)
    config_home = environ.get("XDG_CONFIG_HOME") or absolute("~/.config", "/", environ)
    directory = Path(config_home) / "tunnels"
    return (str(directory),) if os.path.isdir(directory) else ()  # noqa: PTH112 - it may be too long a name


def listing(given: str) -> Listing:
    """The files that a path stands for: itself, or the *.yaml and *.yml of a directory, sorted."""
    if given == STDIN:
        return Listing(given, (given,))
    try:
        names = FILES.wait(given, lambda: _names_in(given))
    except OSError as error:
        problem = Problem.at(Place(given), f"cannot be read: {_why(error)}", ErrorCode.UNREADABLE)
        return Listing(given, (), problem=problem)
    if names is None:
        return Listing(given, (given,))
    if not names:
        problem = Problem.at(Place(given), "no *.yaml or *.yml in this directory", ErrorCode.UNREADABLE)
        return Listing(given, (), problem=problem)
    return Listing(given, tuple(str(Path(given) / name) for name in names))


def _names_in(path: str) -> list[str] | None:
    """The names that count in a directory; None for anything else.

    What is named so counts whatever it is: a file that has become a pipe, a directory or a link to nowhere cannot be
    read, but it is not gone.
    """
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises in a folder that is not ours
            return None
    except ValueError:  # a NUL in it: `find` says so
        return None
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.name.endswith(_SUFFIXES) and not e.name.startswith("."))


def is_utf8(path: str) -> bool:
    """Whether the path has a form as text: Linux takes any bytes for a name, metrics and watchfiles do not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_all(listed: Listing) -> list[Found]:
    """The bytes of the files of a listing. Of several that hang, none waits for the others."""
    if listed.names == (listed.given,):
        return [find(listed.given)]
    answers = FILES.wait_all(listed.names, lambda name: read_regular(name, MAX_BYTES))
    return [_found(name, answers[name]) for name in listed.names]


def find(name: str) -> Found:
    """The bytes of one file that somebody named on the command line: also standard input or a pipe."""
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
        shown = name.encode(errors="backslashreplace").decode()  # whatever tells of it speaks UTF-8
        problem = Problem.at(Place(shown), "its name is not UTF-8: rename it", ErrorCode.UNREADABLE)
        return Found(shown, directory, b"", problem)
    if isinstance(answer, bytes):
        return Found(name, directory, answer)
    if isinstance(answer, FileTooLargeError):
        return Found(name, directory, b"", Problem.at(Place(name), TOO_LARGE, ErrorCode.SYNTAX))
    problem = Problem.at(Place(name), f"cannot be read: {_why(answer)}", ErrorCode.UNREADABLE)
    return Found(name, directory, b"", problem)


class _Kind(Enum):
    STDIN = auto()
    PIPE = auto()
    OTHER = auto()


def _kind(name: str) -> _Kind:
    """What stands at a path. /dev/stdin is standard input: what it is would be in the way of a look at the path."""
    try:
        status = os.stat(name)  # noqa: PTH116 - its ValueError is for a NUL only
    except ValueError:
        raise OSError(errno.EINVAL, "its name holds a NUL", name) from None
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return _Kind.OTHER
    if sys.stdin is not None and os.path.samestat(status, os.fstat(0)):
        return _Kind.STDIN
    return _Kind.PIPE if stat.S_ISFIFO(status.st_mode) else _Kind.OTHER


def _from_pipe(name: str) -> bytes:
    """What comes through a pipe, `<(command)` for one, until its writers have closed it. Raises OSError."""
    content = bytearray()
    give_up_at = time.monotonic() + _PIPE_TIME
    with open(name, "rb", buffering=0, opener=_open_pipe) as pipe:
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        while True:
            left = min(_PIPE_SILENCE, give_up_at - time.monotonic())
            if left <= 0 or not waiting.poll(left * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "it is a pipe, and nothing more came through it in time", name)
            piece = pipe.read(MAX_BYTES + 1 - len(content))
            if piece is None:  # another reader was quicker
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
        raise OSError(errno.EINVAL, "it is a pipe no longer", path)
    return descriptor


def _standard_input(name: str, directory: str) -> Found:
    data, why = b"", "it was closed before the program began"
    if sys.stdin is not None:  # otherwise descriptor 0 is whatever was opened first
        try:
            # Not sys.stdin: while a thread waits in it, Python cannot end.
            with open(0, "rb", closefd=False) as file:
                data, why = file.read(MAX_BYTES + 1), ""
        except OSError as error:
            why = _why(error)
    problem = Problem.at(Place(name), f"cannot be read: {why}", ErrorCode.UNREADABLE) if why else None
    return Found(name, directory, data, problem, once=True)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def revision(digests: Iterable[str]) -> str:
    """One name for the content of all files. Of a single one it is its own sha256, wherever it lies."""
    found = sorted(digests)
    if not found:
        return ""
    return "sha256:" + (found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest())


def _why(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case PermissionError():
            return "permission denied"
        case IsADirectoryError():
            return "this is a directory"
        case OSError(strerror=str(said)):
            return said.lower()
        case _:
            return str(error)
