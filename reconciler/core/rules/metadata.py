"""Link-local and cloud-metadata destinations: tunnels refuse them unless the file names them.

A metadata service returns the credentials of the machine that connects. Through a tunnel this is the machine that
dials: the SSH server, or this one. Input: a host. Output: the kind of destination in words, or "".

Covered: link-local addresses (169.254.0.0/16 and fe80::/10, used by most clouds), the addresses that clouds use outside
these networks, the IPv6 addresses that embed one of them (NAT64, 6to4, ...: `core/rules/ip.py`), and the service's
official names. Not covered: other names that resolve to such an address. The dialling side resolves names, so a SOCKS
tunnel that must keep its clients from such a service needs `allowDestinations`.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from reconciler.core.rules.ip import CACHED, Address, Network, faces, resolver_address

LINK_LOCAL: tuple[Network, ...] = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))
METADATA: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure: the wire server
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS: ::254 is the metadata service, ::23 the credentials of EKS pods
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
        "fd00:42::42/128",  # Scaleway
        "fd20:ce::254/128",  # Google Cloud
    )
)
NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "api.metadata.cloud.ibm.com",
        "instance-data",
        "instance-data.ec2.internal",  # in other regions instance-data.REGION.compute.internal
        "rancher-metadata",
    }
)


@lru_cache(CACHED)
def network_of(address: Address) -> Network | None:
    """Return the link-local or metadata network of this address or of one that it embeds, None if there is none."""
    for face in faces(address):
        for network in (*LINK_LOCAL, *METADATA):
            if face in network:
                return network
    return None


def kind_of(host: Address | str) -> str:
    """Return "a link-local address", "a cloud metadata service" or "". A name must be in lower case."""
    if isinstance(host, str):
        regional = host.startswith("instance-data.") and host.endswith(".compute.internal")
        return "a cloud metadata service" if regional or host in NAMES else ""
    network = network_of(host)
    if network is None:
        return ""
    return "a link-local address" if network in LINK_LOCAL else "a cloud metadata service"


def kind_of_text(host: str) -> str:
    """Return the same as `kind_of` for a host from the file, in any notation that a resolver accepts as an address."""
    address = resolver_address(host)
    return kind_of(host.lower().removesuffix(".") if address is None else address)


def is_named_by(network: Network, address: Address) -> bool:
    """Return True if a rule for `network` names the address: it is that address, or lies within its special network.

    `169.254.0.0/16` names 169.254.169.254; `0.0.0.0/0` and `168.63.0.0/16` name none.
    """
    if address not in network:
        return False
    if network.num_addresses == 1:
        return True
    return any(_is_within(network, special) for special in (*LINK_LOCAL, *METADATA))


def _is_within(network: Network, special: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(special, IPv4Network) and network.subnet_of(special)
    return isinstance(special, IPv6Network) and network.subnet_of(special)
