"""What is wrong with a file: `Problem`, its codes, and the one exception of this package.

In: a place and a sentence. Out: `file:line:column: path: message`, sortable by place. Warning codes are stable: people
write them into `x-allow`, and scripts match them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """What kind of error: for tools that read the JSON output."""

    UNREADABLE = "unreadable"  # the file cannot be opened, or is empty: no answer
    SYNTAX = "syntax"  # not YAML, or YAML that is not taken (aliases, tags, duplicate keys)
    UNKNOWN_KEY = "unknown-key"
    VALUE = "value"
    MISSING = "missing"
    CONFLICT = "conflict"  # two things that exclude each other
    DUPLICATE = "duplicate"
    REFERENCE = "reference"  # a name that leads nowhere, or round in a circle
    FORBIDDEN = "forbidden"  # by --secrets-dir, --allow-env, or for want of --allow-commands


class WarningCode(StrEnum):
    """What `x-allow` beside the field waives: warnings, which `--strict` refuses, and WAIVABLE_ERRORS."""

    LITERAL_SECRET = "literal-secret"  # noqa: S105 - the name of a warning
    HOST_KEYS_UNCHECKED = "host-keys-unchecked"
    BEYOND_LOOPBACK = "beyond-loopback"
    OPEN_PROXY = "open-proxy"
    REMOTE_BEYOND_LOOPBACK = "remote-beyond-loopback"
    UNSET_VARIABLE = "unset-variable"
    SECRET_UNREADABLE = "secret-unreadable"  # noqa: S105 - the name of a warning
    NO_LOGIN = "no-login"
    UNUSABLE_LOGIN = "unusable-login"
    UNKNOWN_ALGORITHM = "unknown-algorithm"
    EXPIRED = "expired"
    MILLISECONDS = "milliseconds"
    NAMES_REFUSED = "names-refused"
    METADATA_DESTINATION = "metadata-destination"


WAIVABLE_ERRORS = frozenset({WarningCode.OPEN_PROXY, WarningCode.METADATA_DESTINATION})

WARNINGS: dict[WarningCode, str] = {
    WarningCode.LITERAL_SECRET: "A secret stands in the file itself; `{file: …}` and `{env: …}` keep it out.",
    WarningCode.HOST_KEYS_UNCHECKED: "`strictHostKeyChecking: false`: anybody on the way can be the server.",
    WarningCode.BEYOND_LOOPBACK: "A tunnel listens on an address that other machines may reach.",
    WarningCode.OPEN_PROXY: "A SOCKS tunnel beyond loopback has neither `auth` nor `allow`.",
    WarningCode.REMOTE_BEYOND_LOOPBACK: (
        "A remote tunnel asks the server to listen beyond loopback: sshd needs GatewayPorts, and may narrow the "
        "address without saying so."
    ),
    WarningCode.UNSET_VARIABLE: "A `${VAR}` is not set: its target needs action until it is.",
    WarningCode.SECRET_UNREADABLE: "A secret, certificate or known hosts file cannot be read here and now.",
    WarningCode.NO_LOGIN: "A target has no way to log in.",
    WarningCode.UNUSABLE_LOGIN: (
        "A key, passphrase or certificate can be read, but no server can be asked with it: `tunnels check` says why."
    ),
    WarningCode.UNKNOWN_ALGORITHM: "`algorithms` names one that this installation does not know (`tunnels check`).",
    WarningCode.EXPIRED: "`expiresAt` has passed: the tunnel is off.",
    WarningCode.MILLISECONDS: "A bare number below 1000 is milliseconds, probably meant as seconds.",
    WarningCode.NAMES_REFUSED: (
        "`denyDestinations` by address shuts out every name that `allowDestinations` does not name."
    ),
    WarningCode.METADATA_DESTINATION: (
        "A tunnel leads to a link-local address or a cloud metadata service, which gives out the credentials of "
        "the machine that asks."
    ),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: line and column count from 1, 0 means the file as a whole; `path` is in words."""

    file: str
    line: int = 0
    column: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one place. `other` is the second file of a problem that lies between two."""

    file: str
    line: int
    column: int
    path: str
    message: str
    code: ErrorCode | WarningCode
    other: str = ""

    @classmethod
    def at(cls, place: Place, message: str, code: ErrorCode | WarningCode, other: str = "") -> Problem:
        return cls(place.file, place.line, place.column, place.path, message, code, other)

    def __str__(self) -> str:
        place = str(Place(self.file, self.line, self.column)) if self.file else ""
        code = f" [{self.code}]" if isinstance(self.code, WarningCode) else ""
        return ": ".join(part for part in (place, self.path, self.message) if part) + code


def by_place(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each problem once, in the order of the text."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.column, p.path, p.message)))


class ConfigError(Exception):
    """A file gives no usable content; `problems` say why."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))
