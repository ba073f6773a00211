"""Who may connect to a tunnel, and where a SOCKS client may go: rules read once, asked on every accept.

Owns the grammar of `allow`, `deny` (sources) and `allowDestinations`, `denyDestinations`. In: the texts of the file,
then an origin or a destination. Out: yes or no, and for a destination the sentence that says why not. In both: deny
wins, and an empty allow list means everybody or everywhere. An unknown origin is refused where there is a source rule.

A source rule is an address or a network: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`.

A destination rule is `host:ports`.
  host   `db.internal`    that name, in any case, with or without its final dot
         `*.internal`     a.internal and a.b.internal, not internal itself
         `10.0.0.0/8`     an address or a network; IPv6 in brackets: `[2001:db8::7]`, `[2001:db8::/32]`
         `*`              every name and every address
  ports  `443`, `8000-8100`, `80,443`, `*`

Names are resolved on the far side, so nothing here knows the address of a name. What follows from that:
- A deny by address would be void if any name that leads there passed. While one holds for a port, a name passes on
  that port only if an allow rule *names* it (`app.internal` or `*.internal`; `*` vouches for nobody).
- A deny by name is about that name: an alias, or the bare address, is another destination (`localhost` does not cover
  127.0.0.1). To wall something off, list what is allowed.
- The resolver reads `127.1`, `0x7f.1` and `2130706433` as 127.0.0.1, and `010.0.0.1` as one thing or another: they
  are neither names nor addresses here, and are refused.
- One address has several faces: IPv4-mapped IPv6 counts as the IPv4 address; a deny of 127.0.0.1 or ::1 also holds for
  0.0.0.0 and :: (which connect to the host itself), a deny of an IPv4 address for the IPv6 addresses that stand for it
  (NAT64, 6to4 and others: `core/rules/ip.py`).

Without any rule, too, link-local and cloud-metadata destinations (`core/rules/metadata.py`) are refused unless an allow
rule names them: a rule for that address, for a network inside its special network (`169.254.0.0/16` for
169.254.169.254), or for exactly that name. `*`, `0.0.0.0/0` and `*.internal` name nothing.
`["*:*", "169.254.169.254:80"]` permits everything, this address included.
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
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as a last label: the resolver takes the whole for an address
_NAME_LENGTH = 253  # RFC 1035 section 3.1, in the written form


# --- sources ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceRules:
    """Which client addresses a tunnel accepts."""

    allow: tuple[Network, ...]
    deny: tuple[Network, ...]

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str]) -> Self:
        """ValueError with a sentence for the first rule that is none."""
        return cls(tuple(map(_source, allow)), tuple(map(_source, deny)))

    def permits(self, origin: Origin) -> bool:
        """Whether this client may connect. File permissions judge the client of a unix socket. An unknown origin is
        refused wherever there is a rule, a deny too: it might be the one that is denied.
        """
        if isinstance(origin, UnixOrigin) or not (self.allow or self.deny):
            return True
        if not isinstance(origin, TcpOrigin) or any(origin.address in network for network in self.deny):
            return False
        return not self.allow or any(origin.address in network for network in self.allow)


def check_source_rule(text: str) -> None:
    """ValueError with a sentence if `text` is no source rule."""
    _source(text)


def _source(text: str) -> Network:
    network = read_network(text)
    if network is None:
        raise ValueError(f"{text!r} is not an address or network: write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
    return network


# --- destinations ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """One `host:ports`. Of a network, `name` is ""; else it is a name, `.suffix` or `*`. Ports are pairs, inclusive."""

    text: str
    network: Network | None
    name: str
    ports: tuple[tuple[int, int], ...]

    def covers(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ports)

    def matches(self, host: Address | str, port: int) -> bool:
        return self._matches_host(host) and self.covers(port)

    def _matches_host(self, host: Address | str) -> bool:
        if self.name == "*":
            return True
        if not isinstance(host, str):
            return self.network is not None and host in self.network
        return host.endswith(self.name) if self.name.startswith(".") else host == self.name


@dataclass(frozen=True, slots=True)
class DestinationRules:
    """Where the clients of a SOCKS tunnel may go."""

    allow: tuple[DestinationRule, ...]
    deny: tuple[DestinationRule, ...]

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str]) -> Self:
        """ValueError with a sentence for the first rule that is none."""
        return cls(tuple(map(_destination, allow)), tuple(map(_destination, deny)))

    @property
    def refuses_names(self) -> bool:
        """Whether a deny by address shuts out every name, because no allow rule names any: worth a warning."""
        denies_addresses = any(rule.network is not None for rule in self.deny)
        return denies_addresses and not any(_names(rule) for rule in self.allow)

    def permits(self, host: str, port: int) -> bool:
        return not self.refusal(host, port)

    def refusal(self, host: str, port: int) -> str:
        """Why a client may not go there, in a sentence; "" if it may."""
        destination = read_host(host)
        if destination is None:
            return f"{host!r} is neither a name nor an address in its usual form, so no rule can judge it"
        for face in _faces(destination):
            for rule in self.deny:
                if rule.matches(face, port):
                    return f"{host}:{port} is denied by {rule.text}"
        allowed_by = [rule for rule in self.allow if rule.matches(destination, port)]
        if self.allow and not allowed_by:
            by_address = isinstance(destination, str) and any(rule.network is not None for rule in self.allow)
            hint = " (no address rule matches a name: it is looked up on the far side)" if by_address else ""
            return f"{host}:{port} is not among the allowed destinations{hint}"
        special = metadata.kind_of(destination)
        if special and not any(_names_exactly(rule, destination) for rule in allowed_by):
            return f"{host}:{port} is {special}: only a rule of `allowDestinations` that names it permits it"
        if isinstance(destination, str) and not any(map(_names, allowed_by)):
            for rule in self.deny:
                if rule.network is not None and rule.covers(port):
                    return f"{host} could lead to what {rule.text} denies: it needs an allow rule that names it"
        return ""


def check_destination_rule(text: str) -> None:
    """ValueError with a sentence if `text` is no destination rule."""
    _destination(text)


@lru_cache(maxsize=1024)
def read_host(text: str) -> Address | str | None:
    """A destination in the one form that rules compare: an address, or a name in lower case without its final dot.

    None for what is neither: a scoped address, a name that is not ASCII, a number that a resolver takes for an address.
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
    """Return True if the rule is about this link-local or metadata destination and no wider one."""
    if isinstance(host, str):
        return rule.name == host
    return rule.network is not None and metadata.is_named_by(rule.network, host)


def _faces(host: Address | str) -> tuple[Address | str, ...]:
    return (host,) if isinstance(host, str) else faces(host)


def _destination(text: str) -> DestinationRule:
    host, colon, ports = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")) or ports.endswith("]"):
        raise ValueError(
            f"{text!r} is not host:ports: write db.internal:443, *.internal:* or [2001:db8::/32]:8000-8100"
        )
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    network = read_network(bare)
    if network is not None and (":" in bare) == (bare is not host):
        return DestinationRule(text, network, "", _ports(text, ports))
    return DestinationRule(text, None, _name_pattern(text, host), _ports(text, ports))


def _name_pattern(text: str, host: str) -> str:
    if host == "*":
        return host
    star = host.startswith("*.")
    name = read_host(host[2:] if star else host)
    if isinstance(name, str):
        return f".{name}" if star else name
    if not host.isascii():
        raise ValueError(f"{text!r} has letters beyond ASCII: write the name in its xn-- form")
    if "*" in host:
        raise ValueError(f"{text!r} has a * in an odd place: write *.internal:443 or *:443")
    raise ValueError(
        f"{text!r} does not begin with a host: write a name, *.name, an address in full such as 127.0.0.1, "
        "or a network such as 10.0.0.0/8 or [2001:db8::/32]"
    )


def _ports(text: str, ports: str) -> tuple[tuple[int, int], ...]:
    return ((1, 65535),) if ports == "*" else tuple(_port_range(text, part) for part in ports.split(","))


def _port_range(text: str, part: str) -> tuple[int, int]:
    first, dash, last = part.strip().partition("-")
    pair = (_port(first), _port(last if dash else first))
    if not 1 <= pair[0] <= pair[1] <= 65535:
        raise ValueError(f"{text!r} does not end in ports from 1 to 65535: write 443, 8000-8100, 80,443 or *")
    return pair


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
