"""Options of the loader: restrictions from the command line, and values that the process supplies."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reconciler.config.deadline import SECONDS
from reconciler.core.rules.file_policy import FilePolicy
from reconciler.core.spec import Hop, Login
from reconciler.system.redaction import Redactor

_READ_ONCE = frozenset({"-", "/dev/stdin"})


class Inspector(Protocol):
    """Checks credentials and algorithms. The SSH layer implements it, because this package does not import SSH."""

    def unusable_credential(self, hop: Hop, login: Login) -> tuple[str, str]:
        """Return why the login cannot be used with the hop, and the field at fault; both "" if it can."""

    def algorithms(self, kind: str) -> Collection[str]:
        """Return the supported names for a field of `algorithms`."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one loader. The defaults restrict nothing except commands.

    strict            warnings are errors
    secrets_dir       the directory for files with keys, certificates, passwords and passphrases; "": any directory
    secrets_dir_only  every secret must be such a file: no variable, no literal, no agent outside the directory
    allow_env         prefixes of the variables that files may use; None: all
    allow_commands    `proxyCommand` may run programs
    user              the default of `user`; None: the user of the process
    now               the Unix time to compare `expiresAt` with; None: the clock
    inspector         checks keys and algorithms; None: they are not checked
    seconds           the limit of processor time to parse one file, or to build all of them
    hidden            collects the values of variables, which are never shown; None: each `Config` makes its own
    paths             the files and directories that are loaded, for messages; empty if they cannot be read again
    policy            what each file may do; None: everything
    """

    strict: bool = False
    secrets_dir: str = ""
    secrets_dir_only: bool = False
    allow_env: tuple[str, ...] | None = None
    allow_commands: bool = False
    user: str | None = None
    now: float | None = None
    inspector: Inspector | None = None
    seconds: float = SECONDS
    hidden: Redactor | None = None
    paths: tuple[str, ...] = ()
    policy: FilePolicy | None = None

    def trust_command(self, target: str) -> str:
        """Return the command that fetches and pins the host keys of a target; "" if the files cannot be read again."""
        if not self.paths or any(path in _READ_ONCE or path.startswith("/dev/fd/") for path in self.paths):
            return ""
        options = ["--allow-commands"] if self.allow_commands else []
        return shlex.join(["tunnels", "trust", *options, *self.paths, target])


def process_user() -> str:
    """Return the name of the user of the process; "" if it has none (a container with a random uid)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


class UnknownHomeError(LookupError):
    """`~` or `~user` at the start of a path stands for no directory. The message says why, and what to do."""


def home(environ: Mapping[str, str]) -> str:
    """Return the home directory, for `~`. Raises UnknownHomeError."""
    from_environment = environ.get("HOME", "")
    if from_environment.startswith("/"):
        return from_environment
    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        found = ""
    if not found.startswith("/"):
        variable = "HOME is not an absolute path" if from_environment else "HOME is not set"
        why = f"`~` is unknown ({variable}, and uid {os.getuid()} has no home directory in passwd)"
        raise UnknownHomeError(f"{why}: write an absolute path, or set HOME in the environment of this process")
    return found


def absolute(path: str, directory: str, environ: Mapping[str, str]) -> str:
    """Make a path absolute: `~` is the home directory, a relative path starts from `directory`.

    Raises UnknownHomeError.
    """
    if path.startswith("~"):
        user, slash, rest = path[1:].partition("/")
        path = (_home_of(user) if user else home(environ)).rstrip("/") + slash + rest
    return os.path.normpath(Path(directory) / (path or "/"))


def _home_of(user: str) -> str:
    try:
        return pwd.getpwnam(user).pw_dir
    except (KeyError, ValueError):
        raise UnknownHomeError(f"`~{user}` is unknown (there is no such user): write an absolute path") from None
