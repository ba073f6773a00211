"""Builds an `Outbound` from `addressFamily` and `bindAddress`, and refuses them where they have no effect."""

from __future__ import annotations

import ipaddress

from reconciler.config.build.fields import Fields
from reconciler.config.problem import ErrorCode
from reconciler.config.schema.values import InvalidValueError, scalar, word
from reconciler.config.syntax.nodes import Node
from reconciler.core.outbound import ANY_ADDRESS, AddressFamily, Outbound
from reconciler.core.spec import Endpoint


def outbound(fields: Fields) -> Outbound:
    """Return how this machine connects to the server that these fields describe."""
    family = AddressFamily(fields.read("addressFamily", word(*(family.value for family in AddressFamily))))
    address = fields.find("bindAddress", _address, "")
    if address and family not in (AddressFamily.ANY, AddressFamily.of(address)):
        what = f"`bindAddress: {address}` is an {AddressFamily.of(address).protocol} address"
        message = f"{what}, but `addressFamily` is {family.value}: change one of them"
        fields.error("bindAddress", message, ErrorCode.CONFLICT)
        return ANY_ADDRESS
    return Outbound(family, address)


def check_hosts(fields: Fields, hosts: tuple[Endpoint, ...], start: Outbound) -> None:
    """Report each address among `hosts` that `start` does not reach, because its family is excluded."""
    for host in hosts:
        if start.reason and _is_address(host.host) and AddressFamily.of(host.host) is not start.reachable:
            what = f"{host.host} is an {AddressFamily.of(host.host).protocol} address, which {start.reason} excludes"
            fields.error("hosts" if "hosts" in fields else "host", f"{what}: change one of them", ErrorCode.CONFLICT)


def refuse_outbound(fields: Fields, given: Outbound, cause: str, fix: str) -> None:
    """Report the fields of a server that this machine does not connect to itself, unless they are inherited."""
    for name, is_set in (
        ("addressFamily", given.family is not AddressFamily.ANY),
        ("bindAddress", given.bind_address != ""),
    ):
        if is_set and fields.is_own(name):
            fields.error(name, f"`{name}` has no effect {cause}: {fix}", ErrorCode.CONFLICT)


def _address(node: Node) -> str:
    """Parse an IPv4 or IPv6 address, which may have a zone; brackets are removed."""
    found = scalar(node).text
    bare = found[1:-1] if found.startswith("[") and found.endswith("]") else found
    if not _is_address(bare) or (bare != found and ":" not in bare):
        raise InvalidValueError
    return str(ipaddress.ip_address(bare))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
