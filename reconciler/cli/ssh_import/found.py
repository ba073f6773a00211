"""An ssh command that was found in a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class PasswordSource:
    """The source of a command's password. It never contains the password.

    kind  `env`: a variable; `file`: a file; `literal`: the text itself contains the password
    name  of the variable or file; empty for `literal`
    """

    kind: Literal["env", "file", "literal"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class FoundCommand:
    """An ssh command that was found in a text.

    where        the place, for messages: `line 3`, `unit.service line 7`, `services.tunnel.command`
    arguments    the arguments after the program's name, with quotes removed and variables replaced
    environment  variables that the text sets for the command (`Environment=`, `env A=b`, `export`)
    notes        remarks for the messages about the command, such as a monitor port of autossh; never a secret
    password     how the command gets its password
    """

    where: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    password: PasswordSource | None = None
