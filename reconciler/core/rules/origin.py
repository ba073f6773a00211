"""The origin of a client: a TCP address, a unix socket, or unknown.

Input: the client's address from `accept()` or from an SSH server. Output: an `Origin`. The three kinds are separate
types so that a missing or malformed address is never mistaken for a unix socket: clients of a unix socket pass every
source rule, an `UnknownOrigin` passes none (core/rules/access.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address

from reconciler.core.rules.ip import CACHED, Address, read_address, unmapped

TEXT_MAX = 64  # characters kept of an origin that is not an address: a server may send any text
_SCOPE = re.compile(r"[A-Za-z0-9._:@+-]{1,15}")  # a network interface; Linux allows 15 characters (IFNAMSIZ)
_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class TcpOrigin:
    """An address and port. IPv4-mapped IPv6 is stored as IPv4.

    host   the address as text, with the scope of a link-local address: its interface
    """

    address: Address
    port: int
    host: str

    @property
    def scope(self) -> str:
        return self.host.partition("%")[2]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixOrigin:
    """The origin of a client of a unix socket. It has no address; file permissions restrict who may connect."""

    @property
    def host(self) -> str:
        return ""

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class UnknownOrigin:
    """The origin of a client whose address is missing or invalid. `text` is the invalid address, made printable."""

    text: str = ""

    @property
    def host(self) -> str:
        return self.text or "unknown"

    def __str__(self) -> str:
        return self.host


Origin = TcpOrigin | UnixOrigin | UnknownOrigin
UNIX = UnixOrigin()


def tcp_origin(host: object, port: object) -> TcpOrigin | UnknownOrigin:
    """Return the origin of a TCP client from the host and port that `accept()` or an SSH server reports."""
    if not isinstance(host, str) or not isinstance(port, int) or not 0 <= port <= _PORT_MAX:
        return UnknownOrigin(_shown(host) if isinstance(host, str) else "")
    known = _read(host)
    return UnknownOrigin(_shown(host)) if known is None else TcpOrigin(known[0], port, known[1])


@lru_cache(CACHED)
def _read(host: str) -> tuple[Address, str] | None:
    """Return the address of a client, and its text. None if it is not one."""
    text, percent, scope = host.partition("%")
    address = read_address(text)
    if address is None:
        return None
    if percent and not (isinstance(address, IPv6Address) and address.is_link_local and _SCOPE.fullmatch(scope)):
        return None
    address = unmapped(address)
    return address, f"{address}%{scope}" if scope else str(address)


def _shown(text: str) -> str:
    """Return the text as printable ASCII, at most TEXT_MAX characters, for logs and terminals."""
    return ascii(text[:TEXT_MAX])[1:-1][:TEXT_MAX]
