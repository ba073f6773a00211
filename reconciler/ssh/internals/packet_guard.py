"""Limits what a server may send on a connection, packet by packet, beyond what asyncssh itself refuses.

It sees each packet that is sent, and each received packet that concerns the whole connection, before asyncssh does
(packets of a channel, of a key exchange method and of an authentication method go elsewhere). Rules:
- Packets that carry nothing (such as SSH_MSG_IGNORE) end the connection when thousands arrive.
- A key exchange ends within `KEX_MAX` seconds. Meanwhile a server sends no requests (RFC 4253 section 7.1), and
  asyncssh queues outgoing packets without a limit: answers beyond `DEFERRED_MAX` end the connection.
- A packet before the end of the login has at most `LOGIN_PACKET_MAX` bytes, and an SSH_MSG_EXT_INFO at most
  `EXTENSIONS_MAX` entries: asyncssh parses such packets without a pause, and lists of many empty entries are slow.
- Answers to requests of this side go to `GlobalRequests`.
A violation raises ProtocolError: asyncssh then ends this connection, and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh
from asyncssh import constants

from reconciler.ssh.internals import login_text
from reconciler.ssh.internals.global_requests import GlobalRequests
from reconciler.ssh.internals.packets import SSHPacket, payload
from reconciler.ssh.internals.parse_budget import ParseBudget
from reconciler.ssh.internals.seam import Seam

USELESS_MAX = 10_000  # packets that carry nothing
USELESS_SECONDS = 10.0  # USELESS_MAX of them in this time, with few other packets, are a flood
USELESS_SHARE = 0.75  # of all packets. Servers based on asyncssh send one SSH_MSG_IGNORE before each packet: a half.
KEX_MAX = 60.0  # seconds
DEFERRED_MAX = 10_000  # packets that wait for the end of a key exchange
# Bytes of data that a channel must accept in one packet. With one byte each, a full buffer is seconds of work.
PACKET_MIN = 1 << 10

LOGIN_PACKET_MAX = 64 << 10  # bytes; RFC 4253 asks for 35,000
EXTENSIONS_MAX = 1024  # as in OpenSSH

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "send_packet", "self pkttype args handler"),
    Seam(asyncssh.SSHClientConnection, "process_packet", "self pkttype pktid packet"),
    Seam(asyncssh.SSHClientConnection, "connection_lost", "self exc"),
    Seam(asyncssh.SSHClientConnection, "_max_recv_pktlen"),
)
_NAMES = {getattr(constants, name): name.removeprefix("MSG_") for name in dir(constants) if name.startswith("MSG_")}
_USELESS = frozenset(
    {
        constants.MSG_IGNORE,
        constants.MSG_UNIMPLEMENTED,
        constants.MSG_DEBUG,
        constants.MSG_USERAUTH_BANNER,
        constants.MSG_GLOBAL_REQUEST,
    }
)

Result = bool | Awaitable[None]  # what processing a packet returns: False for an unknown type


class Guard:
    """The limits for one connection. It installs itself in the connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, inbound: ParseBudget) -> None:
        self._connection = connection
        self.inbound = inbound
        self._loop = asyncio.get_running_loop()
        self._send = connection.send_packet
        self._process = connection.process_packet
        self._exchanging = False  # a key exchange after the first is under way
        self.partial_success: Callable[[], None] = _ignore  # called when a credential is accepted and not enough
        self.server_exchanges_keys = False  # it has begun a key exchange and not ended it
        self._keyed = False  # the first key exchange has ended
        self._deadline: asyncio.TimerHandle | None = None
        self._deferring = False  # asyncssh queues outgoing packets until there are new keys
        self._deferred = 0
        self.requests = GlobalRequests(connection)
        self._useless = 0
        self._useless_from = (0, 0.0)  # sequence number and time of the first of them
        self._rules: dict[int, Callable[[int, int, SSHPacket], Result]] = {
            constants.MSG_UNIMPLEMENTED: self._unimplemented,
            constants.MSG_EXT_INFO: self._extensions,
            constants.MSG_USERAUTH_FAILURE: self._credential_refused,
            constants.MSG_USERAUTH_SUCCESS: self._logged_in,
            constants.MSG_USERAUTH_BANNER: self._banner,
            constants.MSG_KEXINIT: self._kexinit,
            constants.MSG_NEWKEYS: self._newkeys,
            constants.MSG_GLOBAL_REQUEST: self._request,
            constants.MSG_REQUEST_SUCCESS: self._reply,
            constants.MSG_REQUEST_FAILURE: self._reply,
            constants.MSG_CHANNEL_OPEN: self._open,
            constants.MSG_CHANNEL_OPEN_CONFIRMATION: self._confirmation,
        }
        # Any: asyncssh has no option for it.
        self._limits: Any = connection
        self._packet_max = self._limits._max_recv_pktlen  # noqa: SLF001 - as above
        self._limits._max_recv_pktlen = LOGIN_PACKET_MAX  # noqa: SLF001 - as above
        # asyncssh calls both on the connection, by these names.
        connection.send_packet = self.send_packet  # type: ignore[method-assign]
        connection.process_packet = self.process_packet  # type: ignore[method-assign]

    # --- what is sent ------------------------------------------------------------------------------------------

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """Count a packet, and send it."""
        if pkttype > constants.MSG_CHANNEL_OPEN_FAILURE and not self._deferring:  # the fast path: a packet of a channel
            self._send(pkttype, *args, handler=handler)
            return
        waits = pkttype > constants.MSG_KEX_LAST
        if waits and self._deferring and self._deferred >= DEFERRED_MAX:
            self._end("requests continue while the key exchange does not end")
            return
        if pkttype == constants.MSG_NEWKEYS:
            self._deferring, self._deferred = False, 0
        self._send(pkttype, *args, handler=handler)
        if pkttype == constants.MSG_KEXINIT:
            self._deferring = True
            self._exchange_begins()
        elif waits and self._deferring:  # asyncssh sends it again when there are new keys
            self._deferred += 1
        elif pkttype == constants.MSG_GLOBAL_REQUEST:
            self.requests.sent()

    # --- what comes in -----------------------------------------------------------------------------------------

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        """Apply the rules to a packet, and pass it on. Raises ProtocolError."""
        if pkttype in _USELESS or pkttype not in _NAMES:
            self._count_useless(pkttype, pktid)
        if self.server_exchanges_keys and pkttype >= constants.MSG_USERAUTH_REQUEST:
            raise asyncssh.ProtocolError(f"{_name(pkttype)} within a key exchange")
        rule = self._rules.get(pkttype, self._process)
        return rule(pkttype, pktid, packet)

    def _kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        self.server_exchanges_keys = True
        self._exchange_begins()
        return self._process(pkttype, pktid, packet)

    def _newkeys(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        result = self._process(pkttype, pktid, packet)
        self._exchange_ends()
        return result

    def _request(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        fields = payload(packet)
        if fields.get_string() != b"hostkeys-00@openssh.com":
            return self._process(pkttype, pktid, packet)
        # asyncssh answers it in a task, and queues all other requests behind it without a limit.
        if fields.get_boolean():
            self._connection.send_packet(constants.MSG_REQUEST_FAILURE)
        return True

    def _banner(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        return self._process(pkttype, pktid, login_text.banner(packet))

    def _logged_in(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        result = self._process(pkttype, pktid, packet)
        self._limits._max_recv_pktlen = self._packet_max  # noqa: SLF001 - as in __init__
        return result

    def _credential_refused(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        fields = payload(packet)
        fields.get_string()  # the methods that can continue
        if fields.get_boolean():
            self.partial_success()
        return self._process(pkttype, pktid, packet)

    def _extensions(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        if (count := payload(packet).get_uint32()) > EXTENSIONS_MAX:
            raise asyncssh.ProtocolError(f"{count} extensions in one packet: expected at most {EXTENSIONS_MAX}")
        return self._process(pkttype, pktid, packet)

    def _unimplemented(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        self.requests.unimplemented(payload(packet))
        return True

    def _reply(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        """Give a reply to its request. One without a request is ignored, as in OpenSSH."""
        if not self.requests.replied(pkttype, packet.get_remaining_payload()):
            self._count_useless(pkttype, pktid)
        return True

    def _confirmation(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        """Check the fields: two channel numbers, the window, the largest packet, and nothing else."""
        fields = payload(packet)
        fields.get_bytes(12)
        _check_size(fields.get_uint32())
        fields.check_end()
        return self._process(pkttype, pktid, packet)

    def _open(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        """Count a request for a channel, which asyncssh refuses: those of our listeners do not come here."""
        self._count_useless(pkttype, pktid)
        return self._process(pkttype, pktid, packet)

    def _count_useless(self, pkttype: int, pktid: int) -> None:
        now = self._loop.time()
        first, since = self._useless_from
        if not self._useless or now - since > USELESS_SECONDS or pktid < first:  # sequence numbers restart
            self._useless, self._useless_from = 0, (pktid, now)
            first, since = self._useless_from
        self._useless += 1
        if self._useless < USELESS_MAX:
            return
        if self._useless > USELESS_SHARE * (pktid - first + 1):
            text = f"{self._useless} packets like {_name(pkttype)} in {now - since:.1f} s, which carry nothing"
            raise asyncssh.ProtocolError(text)
        self._useless = 0

    # --- key exchanges -----------------------------------------------------------------------------------------

    def _exchange_begins(self) -> None:
        """Start the deadline, except for the first key exchange, which has that of the dial."""
        if self._keyed and not self._exchanging:
            self._exchanging = True
            why = f"a key exchange takes longer than {KEX_MAX:g} s"
            self._deadline = self._loop.call_later(KEX_MAX, self._end, why)

    def _exchange_ends(self) -> None:
        self._keyed, self.server_exchanges_keys = True, False
        self._exchanging = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self, why: str) -> None:
        """End the connection, outside of its parser."""
        self._loop.call_soon(self._connection.connection_lost, asyncssh.ProtocolError(why))

    def close(self) -> None:
        """The connection has ended."""
        self.requests.end()
        if self._deadline is not None:
            self._deadline.cancel()


def _ignore() -> None:
    pass


def _name(pkttype: int) -> str:
    return _NAMES.get(pkttype, f"number {pkttype}")


def _check_size(size: int) -> None:
    if size < PACKET_MIN:
        raise asyncssh.ProtocolError(f"a channel that takes no more than {size} bytes in a packet")
