"""IP addresses and networks: parsing, and the other addresses that reach the same host.

Input: text from a file, a client or a server. Output: `ipaddress` values, or None for text in another notation.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_LOW_32_BITS = (  # networks whose addresses embed an IPv4 address in their last 32 bits
    IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 section 2.5.5.1
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 2765 section 2.1
    IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052 section 2.1
    IPv6Network("64:ff9b:1::/48"),  # NAT64 for local use, RFC 8215; its /96 form
)
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_6TO4 = IPv6Network("2002::/16")  # RFC 3056 section 2
_TEREDO = IPv6Network("2001::/32")  # RFC 4380 section 4
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214 section 6.1: the first half of the interface identifier
_LOOPBACK4, _LOOPBACK6 = IPv4Address("127.0.0.1"), IPv6Address("::1")
_ANY4, _ANY6 = IPv4Address(0), IPv6Address(0)
_LONGEST_NAME = 255
_LONGEST_ADDRESS = 45  # characters: eight groups of IPv6, the last two as an IPv4 address
CACHED = 1024  # results of pure functions that are kept: the same clients and destinations come again and again
_PART = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII | re.IGNORECASE)


def read_address(text: str) -> Address | None:
    """Parse an address in full notation. Octal, hexadecimal and shortened IPv4 forms return None."""
    return None if "%" in text or len(text) > _LONGEST_ADDRESS else _parsed(text)


@lru_cache(CACHED)
def _parsed(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def unmapped(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped IPv6 address, and any other address unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def read_network(text: str) -> Network | None:
    """Parse an address or network. Return None if the text is neither.

    Raises ValueError for a prefix that is too long or a network with host bits set.
    """
    base, slash, length = text.partition("/")
    address = read_address(base)
    if address is None or (slash and not (length.isascii() and length.isdigit() and len(length) <= 3)):
        return None
    if slash and int(length) > address.max_prefixlen:
        raise ValueError(f"{text!r} has a prefix that is too long: expected at most /{address.max_prefixlen}")
    network = ip_network(text, strict=False)
    if slash and network.network_address != address:
        raise ValueError(f"{text!r} has host bits set: write {network} for the network, or {base} for the host")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        v4 = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return IPv4Network((v4, network.prefixlen - 96))
    return network


@lru_cache(CACHED)
def faces(address: Address) -> tuple[Address, ...]:
    """Return the address and the other addresses that a connection to it may reach.

    These are the IPv4 address embedded in an IPv6 one (NAT64, 6to4, Teredo, ISATAP, ...), and loopback for 0.0.0.0 and
    ::.
    """
    found = [address, *(_embedded(address) if isinstance(address, IPv6Address) else ())]
    if _ANY4 in found:
        found.append(_LOOPBACK4)
    if address == _ANY6:
        found.append(_LOOPBACK6)
    return tuple(dict.fromkeys(found))


def _embedded(address: IPv6Address) -> list[Address]:
    """Return the IPv4 addresses that may be embedded in an IPv6 address."""
    bits = int(address)
    values = list[int]()
    if bits > 1 and any(address in network for network in _LOW_32_BITS):  # not :: and ::1
        values.append(bits)
    if address in _NAT64_LOCAL:  # RFC 6052 section 2.2; bits 64 to 71 belong to no IPv4 address
        values.append((bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF)  # after a /48
        values.append((bits >> 64 & 0xFF) << 24 | bits >> 32 & 0xFFFFFF)  # after a /56
        values.append(bits >> 24)  # after a /64
    if address in _6TO4:
        values.append(bits >> 80)
    if address in _TEREDO:
        values.append(~bits)  # the client's address, inverted
    if bits >> 32 & 0xFFFFFFFF in _ISATAP:
        values.append(bits)
    return [IPv4Address(value & 0xFFFFFFFF) for value in values]


def resolver_address(text: str) -> Address | None:
    """Return the address that a resolver may read from this host, also from `127.1`, `0x7f.1` or `2130706433`."""
    host = text.removesuffix(".")
    address = read_address(host.partition("%")[0])
    return _inet_aton(host) if address is None else unmapped(address)


def _inet_aton(text: str) -> IPv4Address | None:
    """Parse as inet_aton(3): one to four decimal, octal or hexadecimal parts; the last fills the remaining bytes."""
    parts = text.split(".")
    if len(text) > _LONGEST_NAME or len(parts) > 4 or any(_PART.fullmatch(part) is None for part in parts):
        return None
    try:
        *first, last = (_number(part) for part in parts)
    except ValueError:
        return None
    if any(part > 0xFF for part in first) or last >= 1 << 8 * (4 - len(first)):
        return None
    return IPv4Address(sum(part << 8 * (3 - place) for place, part in enumerate(first)) + last)


def _number(text: str) -> int:
    if text[:2].lower() == "0x":
        return int(text[2:] or "0", 16)
    return int(text, 8) if len(text) > 1 and text.startswith("0") else int(text)
