"""Explains why a server does not forward: by what it said at login, or by the settings that its answer may come from.

OpenSSH gives the same answer for many settings. But when a key or certificate logs in, it sends debug messages with the
options that apply to it. If those forbid forwarding, that is the cause. Otherwise the settings that remain are listed,
the likeliest first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from reconciler.core.observed import Failure, Reason
from reconciler.ssh.errors.patterns import printable

_KEY_OPTIONS = re.compile(r"(?P<place>.{1,1000}): key options:(?P<names>( [a-z0-9=-]+)*)")
_ALLOWED = "port-forwarding"
_CERTIFICATE = "cert"  # the place that OpenSSH names for the options of a certificate
_CERTIFY = "have a certificate issued with that extension"
_PLACES_MAX = 8


class Kind(Enum):
    """What is forwarded: the settings of sshd that can forbid it, its option of a key, and Dropbear's argument."""

    CONNECT = (("AllowTcpForwarding", "PermitOpen", "DisableForwarding"), "permitopen", "-j")
    CONNECT_UNIX = (
        ("AllowStreamLocalForwarding", "AllowTcpForwarding", "PermitOpen", "DisableForwarding"),
        "permitopen",
        "-j",
    )
    LISTEN = (("AllowTcpForwarding", "PermitListen", "DisableForwarding"), "permitlisten", "-k")
    LISTEN_UNIX = (("AllowStreamLocalForwarding", "AllowTcpForwarding", "DisableForwarding"), "", "-k")

    def __init__(self, settings: tuple[str, ...], option: str, argument: str) -> None:
        self.settings = settings
        self.option = option
        self.argument = argument


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """The options of the key or certificate that logged in. `place` is the line of authorized_keys, or "cert"."""

    place: str
    names: frozenset[str]


@dataclass(slots=True)
class ServerFacts:
    """The facts about a server that its login has shown. `note` adds the content of a debug message.

    uncertified  why the certificate of the login allows no forward; "" if it does, or the login had none
    """

    version: str = ""
    user: str = ""
    uncertified: str = ""
    keys: list[KeyOptions] = field(default_factory=list)

    def note(self, message: str) -> None:
        if len(self.keys) < _PLACES_MAX and (match := _KEY_OPTIONS.fullmatch(message)):
            found = KeyOptions(match["place"], frozenset(match["names"].split()))
            if found not in self.keys:
                self.keys.append(found)

    @property
    def is_dropbear(self) -> bool:
        return "dropbear" in self.version.lower()

    @property
    def is_openssh(self) -> bool:
        return "openssh" in self.version.lower()

    def forbidding(self) -> tuple[str, str] | None:
        """Return what forbids all forwarding, and what to do; None if neither the key nor the certificate does."""
        if self.uncertified:
            return self.uncertified, _CERTIFY
        for key in self.keys:
            if _ALLOWED in key.names:
                continue
            if key.place == _CERTIFICATE:
                return "its certificate lacks permit-port-forwarding", _CERTIFY
            fix = "remove no-port-forwarding there, or add port-forwarding after restrict"
            return f"{printable(key.place)} has restrict or no-port-forwarding for the key", fix
        return None

    def settings(self, kind: Kind, *only: str) -> str:
        """Return the settings to look at, the likeliest first. `only`: those of sshd_config that remain."""
        listed = list(only or kind.settings)
        in_config = f"{_joined(listed)} in its sshd_config"
        if self.is_dropbear:
            options = [f"{kind.option}="] * bool(kind.option) + ["restrict", "no-port-forwarding"]
            return f"{_joined(options)} in its authorized_keys, and {kind.argument} in the arguments of Dropbear"
        if not self.is_openssh:
            return f"what its configuration allows (for sshd: {_joined(listed)})"
        restricted = next((key for key in self.keys if kind.option in key.names), None)
        if restricted is not None:
            return f"{kind.option}= in {printable(restricted.place)}, then {in_config}"
        if self.keys:
            return in_config
        options = [f"{kind.option}="] * bool(kind.option) + ["restrict"]
        return f"{in_config}, and {_joined(options)} in authorized_keys"


UNKNOWN_SERVER = ServerFacts()  # for failures that no fact about a server explains


def forbidden(what: str, server: ServerFacts, kind: Kind) -> Failure:
    """The failure for a forward that the server does not allow: the cause if known, else the settings to look at."""
    if (found := server.forbidding()) is not None:
        cause, fix = found
        return Failure(Reason.FORBIDDEN_BY_SERVER, f"{what} ({cause})", fix)
    return Failure(Reason.FORBIDDEN_BY_SERVER, what, f"see {server.settings(kind)}")


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
