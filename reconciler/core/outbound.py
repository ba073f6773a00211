"""How connections to SSH servers leave this machine: from which local address, and to which address family."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AddressFamily(StrEnum):
    """Which addresses of a server are connected to: all, IPv4 or IPv6."""

    ANY = "any"
    INET = "inet"
    INET6 = "inet6"

    @classmethod
    def of(cls, address: str) -> AddressFamily:
        """Return the family of an address, given without brackets."""
        return cls.INET6 if ":" in address else cls.INET

    @property
    def protocol(self) -> str:
        return {"any": "IP", "inet": "IPv4", "inet6": "IPv6"}[self.value]


@dataclass(frozen=True, slots=True)
class Outbound:
    """How the first connection on the path to a target leaves this machine.

    family        the addresses of the server to connect to
    bind_address  the local address of the connection; "" lets the system choose
    """

    family: AddressFamily
    bind_address: str

    @property
    def reachable(self) -> AddressFamily:
        """The family of the addresses that can be connected to: that of `bind_address`, if there is one."""
        return AddressFamily.of(self.bind_address) if self.bind_address else self.family

    @property
    def reason(self) -> str:
        """The field that decides `reachable`, as it is in the file; "" if none does."""
        if self.family is not AddressFamily.ANY:
            return f"`addressFamily: {self.family.value}`"
        return f"`bindAddress: {self.bind_address}`" if self.bind_address else ""


ANY_ADDRESS = Outbound(AddressFamily.ANY, "")
