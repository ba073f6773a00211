"""Copies ssh_config files with their Includes for `ssh -G`, and finds parts that the output of `ssh -G` does not show.

ssh interprets the lines. This module only finds `Include`, `User`, the names in `Host` and `Match`, the forwards, and
`Match exec`, which would run a program: in the copy its block matches no host.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from itertools import pairwise
from pathlib import Path

from reconciler.config.syntax.config_files import find

_SYSTEM = "/etc/ssh/ssh_config"
_NO_FILE = ("none", "/dev/null")
_DEPTH = 16  # of Includes, as in ssh
_FILES = 1000  # with all Includes
_KEYWORD = re.compile(r'["A-Za-z0-9]+')  # ssh takes Mat"ch" for Match
_EXEC = re.compile(r"(?:^|[\s!=])exec(?:[\s=]|$)", re.IGNORECASE)
_QUOTES = str.maketrans("", "", "\"'\\")
_FORWARDS = ("localforward", "remoteforward", "dynamicforward")
_MATCHES_NO_HOST = "Host !*"


class UnreadableConfigError(Exception):
    """A file that the user named cannot be read. The message says why."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward as written in a file. `option` is in the form of `-o`."""

    where: str
    keyword: str
    option: str


@dataclass(slots=True)
class ConfigCopy:
    """A copy of ssh_config files in a directory, for `ssh -F`.

    path       of the copy
    names      hosts that the files name without wildcards
    users      values of `User`
    forwards   in the order of the files
    lost       messages about parts that are left out
    originals  the files that were copied, by the paths of the copies
    """

    path: Path
    names: list[str] = field(default_factory=list)
    users: set[str] = field(default_factory=set)
    forwards: list[Forward] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    originals: dict[str, str] = field(default_factory=dict)

    def with_original_paths(self, text: str) -> str:
        """Return a message of ssh with the names of the original files."""
        return re.sub(
            rf"{re.escape(str(self.path.parent))}/[0-9]+", lambda found: self.originals.get(found[0], found[0]), text
        )


def home_of_ssh() -> str:
    """Return the home directory that ssh uses: not $HOME, but the one of the user database."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "/")


def copy_of(files: Sequence[str], directory: Path, *, commands: bool) -> ConfigCopy:
    """Copy these files; without any, those that ssh reads by default. `commands`: keep `Match exec`.

    Raises UnreadableConfigError if one of `files` cannot be read.
    """
    copier = _Copier(directory, commands)
    if files:
        for path in files:
            if (problem := copier.add(path, user=True)) is not None:
                raise UnreadableConfigError(problem)
    else:
        copier.add(f"{home_of_ssh()}/.ssh/config", user=True)
        copier.add(_SYSTEM, user=False)
    copier.finish()
    return copier.made


class _Copier:
    def __init__(self, directory: Path, commands: bool) -> None:
        self.made = ConfigCopy(directory / "config")
        self._commands = commands
        self._top: list[str] = []
        self._count = 0

    def add(self, path: str, *, user: bool) -> str | None:
        """Copy a file and its Includes. Returns why it cannot be read."""
        if path in _NO_FILE:
            return None
        found = find(path)
        if found.problem is not None:
            return str(found.problem)
        self._top.append(self._copied(path, found.data, user, 0))
        return None

    def finish(self) -> None:
        self._write(self.made.path, "".join(f"{_include_line([path])}\n" for path in self._top))

    def _copied(self, path: str, data: bytes, user: bool, depth: int) -> str:
        self._count += 1
        target = str(self.made.path.parent / str(self._count))
        self.made.originals[target] = path
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        kept = (self._line(line, f"{path}:{number}", user, depth) for number, line in enumerate(lines, start=1))
        self._write(Path(target), "\n".join(kept))
        return target

    def _write(self, path: Path, text: str) -> None:
        # ssh refuses an included file that a group may write.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:  # noqa: PTH123 - sets the mode
            file.write(text.encode("utf-8", "surrogateescape"))

    def _line(self, line: str, where: str, user: bool, depth: int) -> str:
        """Return the line for the copy. Lines keep their numbers, which ssh names in its messages."""
        text = line.strip()
        matched = _KEYWORD.match(text)
        if matched is None:
            return line
        name, rest = matched[0].translate(_QUOTES), text[matched.end() :].lstrip().removeprefix("=").lstrip()
        keyword = name.lower()
        words = _words(rest)
        if keyword == "host":
            self.made.names += [word for word in words if not re.search(r"[*?!]", word)]
        elif keyword == "match":
            # Quotes are ignored, so that no spelling of `exec` passes.
            if not self._commands and _EXEC.search(rest.translate(_QUOTES)):
                self.made.lost.append(f"{where}: `Match exec` runs a program: allow it with --allow-commands")
                return _MATCHES_NO_HOST
            self.made.names += _names_in_match(words)
        elif keyword == "user":
            self.made.users |= set(words[:1])
        elif keyword in _FORWARDS:
            self.made.forwards.append(Forward(where, name, f"{name} {rest}"))
        elif keyword == "include":
            return self._include(line, words, where, user, depth)
        return line

    def _include(self, line: str, words: Sequence[str], where: str, user: bool, depth: int) -> str:
        included: list[str] = []
        for word in words:
            if re.search(r"[%$]", word):
                self.made.lost.append(f"{where}: an Include with a variable is not read: write the path")
                continue
            path = re.sub(r"^~(?=/)", home_of_ssh(), word)
            if path.startswith("~"):
                path = os.path.expanduser(path)  # noqa: PTH111 - Path raises for an unknown user
            if not path.startswith("/"):
                path = f"{home_of_ssh()}/.ssh/{path}" if user else f"/etc/ssh/{path}"
            for one in sorted(glob(path)):  # noqa: PTH207 - the pattern may be absolute
                found = find(one)
                if found.problem is not None or depth == _DEPTH or self._count == _FILES:
                    self.made.lost.append(f"{where}: {found.problem or 'too many Includes'}")
                else:
                    included.append(self._copied(one, found.data, user, depth + 1))
        return _include_line(included) if included else f"# {line.strip()}"


def _words(rest: str) -> list[str]:
    """Split the arguments of a keyword: quotes group words, and `#` at the start of a word begins a comment."""
    lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # an open quote, which ssh reports
        words = rest.split()
    comment = next((index for index, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]


def _names_in_match(words: Sequence[str]) -> Iterator[str]:
    for criterion, value in pairwise(words):
        if criterion.lower() in ("host", "originalhost"):
            yield from (name for name in value.split(",") if not re.search(r"[*?!]", name))


def _include_line(paths: Sequence[str]) -> str:
    return " ".join(["Include", *(f'"{path}"' for path in paths)])
