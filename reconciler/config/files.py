"""Where the files are, and their bytes: paths given -> what is there now.

A file's absence is told apart from its content: a directory that cannot be read, or is empty, gives no answer at all,
and a file that is missing or empty none about itself; only a file gone from a directory with others in it is really
gone.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.options import absolute
from reconciler.config.problem import ErrorCode, Place, Problem
from reconciler.config.read import MAX_BYTES

STDIN = "-"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Found:
    """One file as it is now: its bytes, or why there are none. `name` is how the user calls it."""

    name: str
    directory: str
    data: bytes
    problem: Problem | None = None


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
    return (str(directory),) if directory.is_dir() else ()


def listing(given: str) -> Listing:
    """The files that a path stands for: itself, or the *.yaml and *.yml of a directory, sorted."""
    if given == STDIN or not os.path.isdir(given):  # noqa: PTH112 - Path.is_dir raises in a folder that is not ours
        return Listing(given, (given,))
    try:
        names = sorted(entry.name for entry in os.scandir(given) if _counts(entry))
    except OSError as error:
        problem = Problem.at(Place(given), f"cannot be read: {_why(error)}", ErrorCode.UNREADABLE)
        return Listing(given, (), problem=problem)
    if not names:
        problem = Problem.at(Place(given), "no *.yaml or *.yml in this directory", ErrorCode.UNREADABLE)
        return Listing(given, (), problem=problem)
    return Listing(given, tuple(str(Path(given) / name) for name in names))


def _counts(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere counts: it is a file that cannot be read, not one that is gone. A pipe would block."""
    is_named_so = entry.name.endswith(_SUFFIXES) and not entry.name.startswith(".")
    return is_named_so and (entry.is_file() or not Path(entry.path).exists())


def is_utf8(path: str) -> bool:
    """Whether the path has a form as text: Linux takes any bytes for a name, metrics and watchfiles do not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def find(name: str) -> Found:
    """The bytes of one file, at most one more than is allowed."""
    if name == STDIN:
        return _standard_input()
    directory = str(Path(name).absolute().parent)
    if not is_utf8(Path(name).name):
        shown = name.encode(errors="backslashreplace").decode()  # whatever tells of it speaks UTF-8
        problem = Problem.at(Place(shown), "its name is not UTF-8: rename it", ErrorCode.UNREADABLE)
        return Found(shown, directory, b"", problem)
    try:
        with Path(name).open("rb") as file:
            return Found(name, directory, file.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = Problem.at(Place(name), f"cannot be read: {_why(error)}", ErrorCode.UNREADABLE)
        return Found(name, directory, b"", problem)


def _standard_input() -> Found:
    data, why = b"", "it was closed before the program began"
    if sys.stdin is not None:  # otherwise descriptor 0 is whatever was opened first
        try:
            # Not sys.stdin: while a thread waits in it, Python cannot end.
            with open(0, "rb", closefd=False) as file:
                data, why = file.read(MAX_BYTES + 1), ""
        except OSError as error:
            why = _why(error)
    problem = Problem.at(Place("<stdin>"), f"cannot be read: {why}", ErrorCode.UNREADABLE) if why else None
    return Found("<stdin>", str(Path.cwd()), data, problem)


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
