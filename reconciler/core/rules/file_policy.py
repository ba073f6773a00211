"""The policy of configuration files: what each file may do.

Input: the texts of a policy file, then the values of a configuration. Output: whether a value is permitted. The first
rule that matches a file judges it. What its rule does not list is refused.

Addresses have the form of destination rules (`core/rules/access.py`), and port 0 is a port that is chosen at bind time.
The host of a configuration is compared with a rule as the address that it stands for: `*` is both 0.0.0.0 and ::,
`localhost` is both 127.0.0.1 and ::1. Each of these addresses must be permitted. A rule for `localhost` permits the
name and both addresses. Another name is compared as text: nothing is looked up. Resolvers differ on `127.1`, `0x7f.1`
and `010.0.0.1`, so only `*` permits such a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from reconciler.core.rules.access import DestinationRule, parse_rule, read_host
from reconciler.core.rules.ip import Address, read_address, unmapped

_LOCALHOST = "localhost"
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_ANY: tuple[Address, ...] = (IPv4Address(0), IPv6Address(0))
_PATTERN = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts = _PATTERN.findall(pattern)
    return re.compile("".join(_MEANINGS.get(part) or re.escape(part) for part in parts), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern of names or paths. `*` and `?` do not match a slash, `**` does. `text` is as written in the policy."""

    text: str
    pattern: str

    def matches(self, name: str) -> bool:
        """Return True if the pattern matches. A path that leads up (`..`) matches none: it may leave the directory."""
        return ".." not in name.split("/") and _expression(self.pattern).fullmatch(name) is not None

    @property
    def directory(self) -> str:
        """The directory that holds every path that the pattern matches, without wildcards."""
        return re.split(r"[*?]", self.pattern)[0].rpartition("/")[0] or "/"


@dataclass(frozen=True, slots=True)
class PermittedPlaces:
    """The addresses and unix sockets that a file may listen on, or lead to."""

    addresses: tuple[DestinationRule, ...]
    paths: tuple[Glob, ...]

    @property
    def texts(self) -> list[str]:
        """The places as written in the policy."""
        return [*(rule.text for rule in self.addresses), *(glob.text for glob in self.paths)]

    def permits(self, host: str, first: int, last: int) -> bool:
        """Return True if each port from `first` to `last` is permitted on each address that the host stands for."""
        return all(self._permits_face(face, first, last) for face in _faces_of(host))

    def knows(self, host: str) -> bool:
        """Return True if some port of the host may be permitted."""
        return all(any(_matches(rule, face) for rule in self.addresses) for face in _faces_of(host))

    def _permits_face(self, face: Address | str | None, first: int, last: int) -> bool:
        ports = [span for rule in self.addresses if _matches(rule, face) for span in rule.ports]
        return _is_covered((first, last), ports)

    def permits_path(self, path: str) -> bool:
        return is_match(self.paths, path)

    def permits_all_of(self, inner: DestinationRule) -> bool:
        """Return True if everything that `inner` matches is permitted."""
        ports = [span for rule in self.addresses if _contains(rule, inner) for span in rule.ports]
        return all(_is_covered(span, ports) for span in inner.ports)


NO_PLACES = PermittedPlaces((), ())


@dataclass(frozen=True, slots=True)
class TypePolicy:
    """What tunnels of one type may do."""

    listen: PermittedPlaces
    destinations: PermittedPlaces


@dataclass(frozen=True, slots=True)
class FileRule:
    """What the files that it matches may do. `at` is the place of the rule, for messages.

    types           by type of tunnel; a type that is missing is refused
    expires_within  seconds; None if a tunnel needs no `expiresAt`
    """

    at: str
    names: tuple[Glob, ...]
    file_paths: tuple[Glob, ...]
    define: tuple[Glob, ...]
    use: tuple[Glob, ...]
    servers: PermittedPlaces
    types: tuple[tuple[str, TypePolicy], ...]
    expires_within: float | None
    paths: tuple[Glob, ...]
    variables: tuple[Glob, ...]
    commands: bool

    def matches(self, path: str) -> bool:
        """Return True if the rule judges the file with this absolute path."""
        name = path.rpartition("/")[2]
        return is_match(self.names, name) or is_match(self.file_paths, path)

    def of_type(self, kind: str) -> TypePolicy | None:
        return next((policy for name, policy in self.types if name == kind), None)


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """The rules of a policy file, in its order. `file` is its name, for messages."""

    file: str
    rules: tuple[FileRule, ...]

    def rule_for(self, path: str) -> FileRule | None:
        """Return the rule that judges the file; None if the file is refused."""
        return next((rule for rule in self.rules if rule.matches(path)), None)


def is_match(globs: Iterable[Glob], name: str) -> bool:
    return any(glob.matches(name) for glob in globs)


def address_rule(text: str) -> DestinationRule:
    """Parse an address with ports, where port 0 is permitted. Raises ValueError with a message."""
    return parse_rule(text, lowest_port=0)


def _faces_of(host: str) -> tuple[Address | str | None, ...]:
    """Return what a host stands for without a name lookup: addresses, a name, or None for neither."""
    if host.lower().removesuffix(".") == _LOCALHOST:
        return _LOOPBACK
    if host in ("*", ""):
        return _ANY
    scoped = host.partition("%")[0] if ":" in host else host
    address = read_address(scoped)
    return (read_host(host) if address is None else unmapped(address),)


def _matches(rule: DestinationRule, face: Address | str | None) -> bool:
    """Compare the host only. `face` is None for text that is neither a name nor an address, which only `*` permits."""
    if face is None:
        return rule.name == "*"
    return rule.matches_host(face) or (rule.name == _LOCALHOST and face in _LOOPBACK)


def _contains(outer: DestinationRule, inner: DestinationRule) -> bool:
    """Return True if `outer` matches each host that `inner` matches."""
    if outer.name == "*":
        return True
    if inner.network is not None:
        if outer.name == _LOCALHOST:
            return inner.network.num_addresses == 1 and inner.network.network_address in _LOOPBACK
        if outer.network is None:
            return False
        if isinstance(inner.network, IPv6Network):
            return isinstance(outer.network, IPv6Network) and inner.network.subnet_of(outer.network)
        return not isinstance(outer.network, IPv6Network) and inner.network.subnet_of(outer.network)
    if outer.network is not None or inner.name == "*":
        return False
    return inner.name.endswith(outer.name) if outer.name.startswith(".") else inner.name == outer.name


def _is_covered(span: tuple[int, int], ports: Sequence[tuple[int, int]]) -> bool:
    """Return True if the ranges together have every port of the span."""
    needed, last = span
    for first, end in sorted(ports):
        if first > needed:
            return False
        if end >= needed:
            needed = end + 1
        if needed > last:
            return True
    return False
