"""Reading the fields of an SSH packet (RFC 4251 section 5).

asyncssh hands packets to its handlers in this form, and raises PacketDecodeError in public calls for an answer of a
server that it cannot decode; neither is part of its documented API.
"""

from __future__ import annotations

from asyncssh.packet import PacketDecodeError, SSHPacket

from reconciler.ssh.internals.seam import Seam

__all__ = ["PacketDecodeError", "SSHPacket", "payload"]

SEAMS = (
    Seam(SSHPacket, "get_full_payload", "self"),
    Seam(SSHPacket, "get_remaining_payload", "self"),
    Seam(SSHPacket, "get_bytes", "self size"),
    Seam(SSHPacket, "get_boolean", "self"),
    Seam(SSHPacket, "get_uint32", "self"),
    Seam(SSHPacket, "get_string", "self"),
    Seam(SSHPacket, "get_mpint", "self"),
    Seam(SSHPacket, "check_end", "self"),
)


def payload(packet: SSHPacket) -> SSHPacket:
    """Return a copy of the packet after its type, to read without changing what asyncssh will read."""
    return SSHPacket(packet.get_full_payload()[1:])
