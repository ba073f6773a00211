"""Problems with a file: `Problem`, its codes, and the exception of this package.

Input: a place and a message. Output: `file:line:column: path: message`, sortable by place. Warning codes are stable:
configurations name them in `x-allow`, and scripts match them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.text.errors import TunnelsError


class ErrorCode(StrEnum):
    """The kind of an error, for tools that read the JSON output."""

    UNREADABLE = "unreadable"  # the file cannot be opened, or is empty: nothing is known about its content
    SYNTAX = "syntax"  # not YAML, or YAML that is not supported (aliases, tags, duplicate keys)
    UNKNOWN_KEY = "unknown-key"
    VALUE = "value"
    MISSING = "missing"
    CONFLICT = "conflict"  # two settings that exclude each other
    DUPLICATE = "duplicate"
    REFERENCE = "reference"  # an unknown name, or a cycle
    FORBIDDEN = "forbidden"  # by --secrets-dir or --allow-env, or because --allow-commands is missing


class WarningCode(StrEnum):
    """Codes that `x-allow` beside the field waives: warnings, which `--strict` makes errors, and WAIVABLE_ERRORS."""

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


class PolicyCode(StrEnum):
    """Codes of errors about what `--policy` does not permit. Nothing in the judged file waives them."""

    FILE = "policy-file"
    TARGET = "policy-target"
    SERVER = "policy-server"
    TYPE = "policy-type"
    LISTEN = "policy-listen"
    DESTINATION = "policy-destination"
    EXPIRY = "policy-expiry"
    PATH = "policy-path"
    VARIABLE = "policy-variable"
    COMMAND = "policy-command"


POLICY_CODES: dict[PolicyCode, str] = {
    PolicyCode.FILE: "No rule of the policy matches the file.",
    PolicyCode.TARGET: "The file may not define this target, add tunnels to it, or use it as a jump host.",
    PolicyCode.SERVER: "The address of a target or jump host is not among `servers`.",
    PolicyCode.TYPE: "The file may have no tunnel of this type.",
    PolicyCode.LISTEN: "The address, port or socket to listen on is not among `listen`.",
    PolicyCode.DESTINATION: "The destination is not among `destinations`, or a SOCKS tunnel permits more than they do.",
    PolicyCode.EXPIRY: "The tunnel has no `expiresAt`, or one that is later than `expiresWithin` permits.",
    PolicyCode.PATH: "A file or socket of this machine is not among `paths`.",
    PolicyCode.VARIABLE: "An environment variable is not among `variables`.",
    PolicyCode.COMMAND: "The file may have no `proxyCommand`: the rule has no `commands: true`.",
}

Code = ErrorCode | WarningCode | PolicyCode

WAIVABLE_ERRORS = frozenset({WarningCode.OPEN_PROXY, WarningCode.METADATA_DESTINATION})

WARNINGS: dict[WarningCode, str] = {
    WarningCode.LITERAL_SECRET: "A secret is written in the configuration file: use `{file: …}` or `{env: …}`.",
    WarningCode.HOST_KEYS_UNCHECKED: "`strictHostKeyChecking: false`: the server can be impersonated.",
    WarningCode.BEYOND_LOOPBACK: "A tunnel listens on an address that other machines may reach.",
    WarningCode.OPEN_PROXY: "A SOCKS tunnel beyond loopback has neither `auth` nor `allow`.",
    WarningCode.REMOTE_BEYOND_LOOPBACK: (
        "A remote tunnel asks the server to listen beyond loopback: without GatewayPorts, sshd listens on loopback "
        "and reports no error."
    ),
    WarningCode.UNSET_VARIABLE: "A `${VAR}` is not set, or `~` is unknown: its target or tunnel cannot be used.",
    WarningCode.SECRET_UNREADABLE: "A secret, certificate or known hosts file cannot be read on this machine now.",
    WarningCode.NO_LOGIN: "A target has no way to log in.",
    WarningCode.UNUSABLE_LOGIN: (
        "A key, passphrase or certificate can be read but cannot be used: `tunnels check` reports why."
    ),
    WarningCode.UNKNOWN_ALGORITHM: "`algorithms` names an algorithm that this installation does not support.",
    WarningCode.EXPIRED: "`expiresAt` has passed: the tunnel is off.",
    WarningCode.MILLISECONDS: "A bare number below 1000 is milliseconds, probably meant as seconds.",
    WarningCode.NAMES_REFUSED: (
        "`denyDestinations` has rules by address, which refuse every host name that `allowDestinations` does not list."
    ),
    WarningCode.METADATA_DESTINATION: (
        "The destination of a tunnel is a link-local address or a cloud metadata service, which hands out the "
        "credentials of the machine that asks."
    ),
}


@dataclass(frozen=True, slots=True)
class Location:
    """A position in a file. Line and column count from 1; line 0 means the whole file. `path` is as in `targets.a`."""

    file: str
    line: int = 0
    column: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One message about one place. `other` is the second file of a problem between two files."""

    file: str
    line: int
    column: int
    path: str
    message: str
    code: Code
    other: str = ""

    @classmethod
    def at(cls, place: Location, message: str, code: Code, other: str = "") -> Problem:
        return cls(place.file, place.line, place.column, place.path, message, code, other)

    def __str__(self) -> str:
        place = str(Location(self.file, self.line, self.column)) if self.file else ""
        code = f" [{self.code}]" if isinstance(self.code, WarningCode | PolicyCode) else ""
        return ": ".join(part for part in (place, self.path, self.message) if part) + code


def by_place(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sort the problems by place and remove duplicates."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.column, p.path, p.message)))


class ConfigError(TunnelsError):
    """A file has no usable content; `problems` give the reasons."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
