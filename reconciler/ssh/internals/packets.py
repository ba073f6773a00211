"""Reading and writing the fields of an SSH packet (RFC 4251 section 5).

asyncssh hands packets to its handlers in this form, and raises PacketDecodeError in public calls for an answer of a
server that it cannot decode; neither is part of its documented API.
"""

from __future__ import annotations

from asyncssh import packet
from asyncssh.packet import Boolean, PacketDecodeError, SSHPacket, String, UInt32

from reconciler.ssh.internals.seam import Seam

__all__ = ["Boolean", "PacketDecodeError", "SSHPacket", "String", "UInt32", "payload"]

SEAMS = (
    Seam(SSHPacket, "get_full_payload", "self"),
    Seam(SSHPacket, "get_remaining_payload", "self"),
    Seam(SSHPacket, "get_bytes", "self size"),
    Seam(SSHPacket, "get_boolean", "self"),
    Seam(SSHPacket, "get_uint32", "self"),
    Seam(SSHPacket, "get_string", "self"),
    Seam(SSHPacket, "get_mpint", "self"),
    Seam(SSHPacket, "check_end", "self"),
    Seam(packet, "Boolean", "value"),
    Seam(packet, "String", "value"),
    Seam(packet, "UInt32", "value"),
)


def payload(received: SSHPacket) -> SSHPacket:
    """Return a copy of the packet after its type, to read without changing what asyncssh will read."""
    return SSHPacket(received.get_full_payload()[1:])
