"""Special files that a path may lead to instead of a regular file."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(12 << 30)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _linked(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


# Name -> a function that creates it, and a part of the error message.
SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (os.mkfifo, "it is a pipe, expected a regular file"),
    "a directory": (lambda path: path.mkdir(), "directory"),
    "a socket": (_socket, "it is a socket, expected a regular file"),
    "/dev/zero": (_linked("/dev/zero"), "it is a device, expected a regular file"),
    "/dev/ptmx": (_linked("/dev/ptmx"), "it is a device, expected a regular file"),
    "/dev/tty": (_linked("/dev/tty"), "it is a device, expected a regular file"),
    "a file of 12 GiB": (_sparse, "larger than"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
}
NOTHING: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to nowhere": (_linked("/nowhere/at/all"), "no such file"),
    "an empty file": (lambda path: path.touch(), "empty"),
}


def put(path: Path, make: Callable[[Path], None]) -> None:
    """Create it at the path, and replace an existing file atomically."""
    beside = path.with_name(f"{path.name}.new")
    make(beside)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    if beside.is_dir() and not beside.is_symlink():
        path.unlink(missing_ok=True)
    elif beside.is_symlink() and beside.readlink() == beside:
        beside.unlink()
        path.unlink(missing_ok=True)
        path.symlink_to(path)
        return
    beside.rename(path)
