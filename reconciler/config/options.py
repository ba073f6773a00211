"""What the command line allows the files: restrictions, and what the process would fill in."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reconciler.config.deadline import SECONDS
from reconciler.core.spec import Hop, Login
from reconciler.system.redaction import Redactor


class Inspector(Protocol):
    """What is known of servers' logins where SSH is spoken, which is not here."""

    def unusable_credential(self, hop: Hop, login: Login) -> tuple[str, str]:
        """Why the hop cannot be asked with this login, and the field that is to blame; both "" if it can."""

    def algorithms(self, kind: str) -> Collection[str]:
        """The names known for a field of `algorithms`."""


@dataclass(frozen=True, slots=True)
class Options:
    """All optional; the defaults restrict nothing but commands.

    strict            warnings are errors
    secrets_dir       files with keys, certificates, passwords and passphrases must lie in it; "" anywhere
    secrets_dir_only  and nothing else may be a secret: no variable, no literal, no agent outside of it
    allow_env         prefixes of the variables that files may name; None: all
    allow_commands    `proxyCommand` may run programs
    user              the default of `user`; None: the process's own
    now               Unix time that `expiresAt` is compared with; None: the clock's
    inspector         looks into keys and algorithms too; None: nobody does
    seconds           of processor time that reading one file may take, or putting all of them together
    hidden            learns the values of variables, which are never shown; None: of one that a `Config` makes
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


def process_user() -> str:
    """The name of the process's user, "" where it has none (a container with a random uid)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def home(environ: Mapping[str, str]) -> str:
    """The home directory, for `~`."""
    if given := environ.get("HOME"):
        return given
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def absolute(path: str, directory: str, environ: Mapping[str, str]) -> str:
    """A path of a file, as an absolute one: `~` is the home directory, the rest counts from the file's own."""
    if path == "~" or path.startswith("~/"):
        path = home(environ) + path[1:]
    elif path.startswith("~"):
        path = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for an unknown user
    return os.path.normpath(Path(directory) / path)
