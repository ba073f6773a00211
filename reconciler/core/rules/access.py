"""Access rules: which clients may connect to a tunnel, and where a SOCKS client may connect to.

Defines the grammar of `allow`, `deny` (sources) and `allowDestinations`, `denyDestinations`. Input: the texts of the
file, then an origin or a destination. Output: yes or no, and for a destination the reason for a refusal. In both kinds
deny wins, and an empty allow list permits everything. An unknown origin is refused if the tunnel has any source rule.

A source rule is an address or a network: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`.

A destination rule is `host:ports`.
  host   `db.internal`    that name, in any case, with or without its final dot
         `*.internal`     a.internal and a.b.internal, but not internal
         `10.0.0.0/8`     an address or a network; IPv6 in brackets: `[2001:db8::7]`, `[2001:db8::/32]`
         `*`              every name and every address
  ports  `443`, `8000-8100`, `80,443`, `*`

The SSH server resolves names, so these rules never know the address of a name. Consequences:
- A deny by address would have no effect if names could resolve to that address. Where such a rule covers a port, a name
  is permitted on that port only if an allow rule *names* it (`app.internal` or `*.internal`, but not `*`).
- A deny by name covers that name only: an alias or the bare address is another destination (`localhost` does not cover
  127.0.0.1). To isolate a destination, list the allowed ones.
- Resolvers read `127.1`, `0x7f.1` and `2130706433` as 127.0.0.1, and differ on `010.0.0.1`. These forms are neither
  names nor addresses here, and are refused.
- Several addresses can reach one host. IPv4-mapped IPv6 counts as the IPv4 address. A deny of 127.0.0.1 or ::1 also
  covers 0.0.0.0 and ::, which connect to the host itself. A deny of an IPv4 address also covers the IPv6 addresses that
  embed it (NAT64, 6to4 and others: `core/rules/ip.py`).

Even without rules, link-local and cloud-metadata destinations (`core/rules/metadata.py`) are refused unless an allow
rule names them: a rule for that address, for a network inside its special network (`169.254.0.0/16` for
169.254.169.254), or for exactly that name. `*`, `0.0.0.0/0` and `*.internal` name none of them.
`["*:*", "169.254.169.254:80"]` permits everything, including this address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from reconciler.core.rules import metadata
from reconciler.core.rules.ip import Address, Network, faces, read_address, read_network, unmapped
from reconciler.core.rules.origin import Origin, TcpOrigin, UnixOrigin

_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # resolvers read a host whose last label is a number as an address
_NAME_LENGTH = 253  # RFC 1035 section 3.1, in the written form


# --- sources ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceRules:
    """The source rules of a tunnel: which client addresses it accepts."""

    allow: tuple[Network, ...]
    deny: tuple[Network, ...]

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str]) -> Self:
        """Parse the rules. Raises ValueError with a message about the first invalid rule."""
        return cls(tuple(map(_source, allow)), tuple(map(_source, deny)))

    def permits(self, origin: Origin) -> bool:
        """Return True if the client may connect.

        Clients of a unix socket always may: file permissions restrict them. An unknown origin is refused if there is
        any rule, because it could be a denied one.
        """
        if isinstance(origin, UnixOrigin) or not (self.allow or self.deny):
            return True
        if not isinstance(origin, TcpOrigin) or any(origin.address in network for network in self.deny):
            return False
        return not self.allow or any(origin.address in network for network in self.allow)


def check_source_rule(text: str) -> None:
    """Raise ValueError with a message if `text` is not a valid source rule."""
    _source(text)


def _source(text: str) -> Network:
    network = read_network(text)
    if network is None:
        raise ValueError(
            f"{text!r} is not an address or network: expected a form such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"
        )
    return network


# --- destinations ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """One `host:ports` rule.

    network   the address or network, None for a name
    name      a name, `.suffix` or `*`; "" for a network
    ports     inclusive ranges
    """

    text: str
    network: Network | None
    name: str
    ports: tuple[tuple[int, int], ...]

    def covers(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ports)

    def matches(self, host: Address | str, port: int) -> bool:
        return self.matches_host(host) and self.covers(port)

    def matches_host(self, host: Address | str) -> bool:
        if self.name == "*":
            return True
        if not isinstance(host, str):
            return self.network is not None and host in self.network
        return host.endswith(self.name) if self.name.startswith(".") else host == self.name


@dataclass(frozen=True, slots=True)
class DestinationRules:
    """The destination rules of a SOCKS tunnel: where its clients may connect to."""

    allow: tuple[DestinationRule, ...]
    deny: tuple[DestinationRule, ...]

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str]) -> Self:
        """Parse the rules. Raises ValueError with a message about the first invalid rule."""
        return cls(tuple(map(_destination, allow)), tuple(map(_destination, deny)))

    @property
    def refuses_names(self) -> bool:
        """True if a deny by address refuses every name, because no allow rule names any. Reported as a warning."""
        denies_addresses = any(rule.network is not None for rule in self.deny)
        return denies_addresses and not any(_names(rule) for rule in self.allow)

    def permits(self, host: str, port: int) -> bool:
        return not self.refusal(host, port)

    def refusal(self, host: str, port: int) -> str:
        """Return why a client may not connect to the destination, "" if it may."""
        destination = read_host(host)
        if destination is None:
            return f"{host!r} is not a host name or an IP address in full: no rule can match it"
        for face in _faces(destination):
            for rule in self.deny:
                if rule.matches(face, port):
                    return f"{host}:{port} is denied by {rule.text}"
        allowed_by = [rule for rule in self.allow if rule.matches(destination, port)]
        if self.allow and not allowed_by:
            by_address = isinstance(destination, str) and any(rule.network is not None for rule in self.allow)
            hint = " (address rules do not match names: the SSH server resolves them)" if by_address else ""
            return f"{host}:{port} is not among the allowed destinations{hint}"
        special = metadata.kind_of(destination)
        if special and not any(_names_exactly(rule, destination) for rule in allowed_by):
            return f"{host}:{port} is {special}: name it in `allowDestinations` to permit it"
        if isinstance(destination, str) and not any(map(_names, allowed_by)):
            for rule in self.deny:
                if rule.network is not None and rule.covers(port):
                    return (
                        f"{host} may resolve to an address that {rule.text} denies: "
                        "name it in `allowDestinations` to permit it"
                    )
        return ""


def check_destination_rule(text: str) -> None:
    """Raise ValueError with a message if `text` is not a valid destination rule."""
    _destination(text)


@lru_cache(maxsize=1024)
def read_host(text: str) -> Address | str | None:
    """Return a destination in the form that rules compare: an address, or a lower-case name without its final dot.

    Return None for a scoped address, a name that is not ASCII, and a number that resolvers accept as an address.
    """
    address = read_address(text)
    if address is not None:
        return unmapped(address)
    if not text.isascii():  # before lower(): the Kelvin sign becomes an ASCII k
        return None
    name = text.lower().removesuffix(".")
    if len(name) > _NAME_LENGTH or _NAME.fullmatch(name) is None or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return None
    return name


def _names(rule: DestinationRule) -> bool:
    return rule.network is None and rule.name != "*"


def _names_exactly(rule: DestinationRule, host: Address | str) -> bool:
    """Return True if the rule names this link-local or metadata destination and is no wider than its network."""
    if isinstance(host, str):
        return rule.name == host
    return rule.network is not None and metadata.is_named_by(rule.network, host)


def _faces(host: Address | str) -> tuple[Address | str, ...]:
    return (host,) if isinstance(host, str) else faces(host)


def _destination(text: str) -> DestinationRule:
    return parse_rule(text, lowest_port=1)


def parse_rule(text: str, *, lowest_port: int) -> DestinationRule:
    """Parse `host:ports`. Raises ValueError with a message."""
    host, colon, ports = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")) or ports.endswith("]"):
        raise ValueError(
            f"{text!r} is not host:ports: expected a form such as db.internal:443, *.internal:* or "
            "[2001:db8::/32]:8000-8100"
        )
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    network = read_network(bare)
    if network is not None and (":" in bare) == (bare is not host):
        return DestinationRule(text, network, "", _ports(text, ports, lowest_port))
    return DestinationRule(text, None, _name_pattern(text, host), _ports(text, ports, lowest_port))


def _name_pattern(text: str, host: str) -> str:
    if host == "*":
        return host
    star = host.startswith("*.")
    name = read_host(host[2:] if star else host)
    if isinstance(name, str):
        return f".{name}" if star else name
    if not host.isascii():
        raise ValueError(f"{text!r} is not ASCII: write the name in its xn-- form")
    if "*" in host:
        raise ValueError(f"{text!r} has a misplaced *: expected a form such as *.internal:443 or *:443")
    raise ValueError(
        f"{text!r} has no valid host: expected a name, *.name, an address in full such as 127.0.0.1, "
        "or a network such as 10.0.0.0/8 or [2001:db8::/32]"
    )


def _ports(text: str, ports: str, lowest: int) -> tuple[tuple[int, int], ...]:
    return ((lowest, 65535),) if ports == "*" else tuple(_port_range(text, part, lowest) for part in ports.split(","))


def _port_range(text: str, part: str, lowest: int) -> tuple[int, int]:
    first, dash, last = part.strip().partition("-")
    pair = (_port(first), _port(last if dash else first))
    if not lowest <= pair[0] <= pair[1] <= 65535:
        raise ValueError(f"{text!r} has no valid ports: expected a form such as 443, 8000-8100, 80,443 or *")
    return pair


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
