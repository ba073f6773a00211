# ruff: noqa: SLF001 - asyncssh has no public access to its packet layer; this module is the access.
"""The packet layer of an asyncssh connection: its ciphers, counters and parser, for packets that it does not see.

`AsyncsshState` decides for each packet whether it may pass below asyncssh, and keeps asyncssh's counters for those that
do: sequence numbers, nonces, bytes until the next key exchange. All other packets go to asyncssh as they came.

Without one of the names in `SEAMS`, here or in `codec_aead`, all packets pass through asyncssh.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import asyncssh
from asyncssh.packet import SSHPacket

from reconciler.ssh.internals.codec_aead import BODY_MAX, SEQ_MASK, Codec, codec_for
from reconciler.ssh.internals.seam import Seam

FIRST_CHANNEL = 1 << 30  # the least number of an own channel. asyncssh numbers its channels from 0
LOOK_AGAIN = 0.001  # seconds: such a task lasts for some milliseconds
HEARD_PAUSE = 0.05  # seconds between two restarts of the keepalive timer

_CONNECTION = asyncssh.SSHClientConnection
# What packets below asyncssh need. What the plain way needs as well is in `packet_path`.
SEAMS = (
    Seam(_CONNECTION, "_auth_complete"),
    Seam(_CONNECTION, "_auth_final"),
    Seam(_CONNECTION, "_compressor"),
    Seam(_CONNECTION, "_decompressor"),
    Seam(_CONNECTION, "_inpbuf"),
    Seam(_CONNECTION, "_keepalive_count"),
    Seam(_CONNECTION, "_max_recv_pktlen"),
    Seam(_CONNECTION, "_packet"),
    Seam(_CONNECTION, "_recv_encryption"),
    Seam(_CONNECTION, "_recv_handler"),
    Seam(_CONNECTION, "_recv_seq"),
    Seam(_CONNECTION, "_rekey_bytes"),
    Seam(_CONNECTION, "_rekey_bytes_sent"),
    Seam(_CONNECTION, "_rekey_seconds"),
    Seam(_CONNECTION, "_rekey_time"),
    Seam(_CONNECTION, "_send_encryption"),
    Seam(_CONNECTION, "_send_seq"),
    Seam(_CONNECTION, "_finish_recv_packet", "self pkttype seq _task is_async"),
    Seam(_CONNECTION, "_force_close", "self exc"),
    Seam(_CONNECTION, "_recv_packet", "self"),
    Seam(_CONNECTION, "_recv_pkthdr", "self"),
    Seam(_CONNECTION, "_reset_keepalive_timer", "self"),
    Seam(_CONNECTION, "_send", "self data"),
    Seam(_CONNECTION, "_send_disconnect", "self code reason lang"),
    Seam(_CONNECTION, "internal_error", "self exc_info error_logger"),
)


class AsyncsshState:
    """The packet layer of one connection.

    Replaces methods of the connection by ones that also call:

    before_write      before asyncssh writes to the transport
    on_idle           after a packet that asyncssh handled in a task
    on_new_keys       after a key exchange, when asyncssh sends again
    on_plain_packet   with the payload of a packet for channels that asyncssh has decrypted; it returns False if the
                      packet is asyncssh's

    may_hold        asyncssh's parser may have the start of a packet, for `reclaim`
    hears_again_at  when `heard` is to be called again, if bytes arrive
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, *, plain: bool = False) -> None:
        """`plain`: no packet passes below asyncssh."""
        self._connection = cast("Any", connection)
        self._plain = plain
        self.hears_again_at = 0.0
        self.may_hold = True
        self.before_write: Callable[[], None] = _nothing
        self.on_idle: Callable[[], None] = _nothing
        self.on_new_keys: Callable[[], None] = _nothing
        self.on_plain_packet: Callable[[int, memoryview], bool] = lambda _kind, _payload: False
        self._send_encryption: Any = None
        self._send_codec: Codec | None = None
        self._parsers = (self._connection._recv_pkthdr, self._connection._recv_packet) if not plain else ()
        self._recv_encryption: Any = None
        self._recv_codec: Codec | None = None
        self._connection._channels = _Channels(self._connection._channels, _OwnChannel(self))
        # asyncssh calls all four on the connection, by these names.
        self._process = self._connection.process_packet
        self._send_deferred = self._connection._send_deferred_packets
        self._connection.process_packet = self._process_packet
        self._connection._send_deferred_packets = self._begin_new_keys
        if not plain:
            self._write = self._connection._send
            self._finish = self._connection._finish_recv_packet
            self._connection._send = self._write_after_ours
            self._connection._finish_recv_packet = self._finish_packet
            if not self.is_idle:
                self._look_for_end_of_task()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport, None when the connection has ended or is about to."""
        return self._connection._transport  # type: ignore[no-any-return]

    # --- the rule ----------------------------------------------------------------------------------------------

    def send_codec(self) -> Codec | None:
        """Return the codec for the next packet that is sent, None if it must go through asyncssh."""
        connection = self._connection
        if self._plain or not (connection._kex_complete and connection._auth_complete and connection._auth_final):
            return None
        if connection._compressor is not None:
            return None
        if connection._rekey_bytes_sent >= connection._rekey_bytes:
            return None
        if connection._rekey_seconds and time.monotonic() >= connection._rekey_time:
            return None
        if connection._send_encryption is not self._send_encryption:
            self._send_encryption = connection._send_encryption
            self._send_codec = codec_for(self._send_encryption)
        return self._send_codec

    def opening_codec(self) -> Codec | None:
        """Return the codec for the next received packet, None if it must go through asyncssh, or has to wait."""
        # `is_idle` and `recv_codec` are written out: each read asks this, and calls are most of its cost.
        connection = self._connection
        # asyncssh sets _auth_final at the first packet after the login.
        if self._plain or not (connection._kex_complete and connection._auth_complete and connection._auth_final):
            return None
        if connection._decompressor is not None or connection._transport is None:
            return None
        if connection._recv_handler not in self._parsers:
            return None
        if connection._recv_encryption is self._recv_encryption:
            return self._recv_codec
        return self.recv_codec()

    def recv_codec(self) -> Codec | None:
        """Return the codec that splits received bytes into packets, None if only asyncssh can."""
        encryption = self._connection._recv_encryption
        if encryption is not self._recv_encryption:
            self._recv_encryption, self._recv_codec = encryption, codec_for(encryption)
        return self._recv_codec

    # --- counters ----------------------------------------------------------------------------------------------

    @property
    def recv_seq(self) -> int:
        return self._connection._recv_seq  # type: ignore[no-any-return]

    def set_recv_seq(self, seq: int) -> None:
        """Set the sequence number of the next received packet, after packets that were opened below asyncssh."""
        self._connection._recv_seq = seq

    def count_sent(self, body: int) -> int:
        """Count a packet that is sealed below asyncssh, with a body of this length. Return its sequence number."""
        connection = self._connection
        seq: int = connection._send_seq
        connection._send_seq = seq + 1 & SEQ_MASK
        connection._rekey_bytes_sent += body
        return seq

    def heard(self, now: float) -> None:
        """Restart the keepalive timer, as asyncssh does for all received bytes, but not thousands of times a second.

        asyncssh counts the answers to its keepalives only, although any bytes show that the server is alive.
        `now`: loop time, not before `hears_again_at`.
        """
        self.hears_again_at = now + HEARD_PAUSE
        self._connection._keepalive_count = 0
        self._connection._reset_keepalive_timer()

    # --- asyncssh's parser -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """True if asyncssh can take received bytes: no task of its own handles the packet before."""
        connection = self._connection
        return connection._transport is not None and connection._recv_handler in self._parsers

    def reclaim(self) -> bytes:
        """Take back the start of a packet from asyncssh's parser, which keeps it as it was sent."""
        connection = self._connection
        if not self.may_hold or not self.is_idle or self.recv_codec() is None:
            return b""
        self.may_hold = False
        held: bytes = connection._packet + connection._inpbuf
        connection._packet = connection._inpbuf = b""
        connection._recv_handler = connection._recv_pkthdr
        return held

    def hand_over(self, data: memoryview) -> None:
        """Give asyncssh bytes as they were received."""
        self.may_hold = True
        self._connection.data_received(bytes(data))

    def refuse_length(self, start: memoryview) -> None:
        """Let asyncssh end the connection because of a packet that is too long."""
        self.may_hold = True
        self._connection._max_recv_pktlen = min(self._connection._max_recv_pktlen, BODY_MAX)
        self._connection.data_received(bytes(start))

    def fail(self, error: Exception) -> None:
        """End the connection as asyncssh does after an error in a handler."""
        if isinstance(error, asyncssh.DisconnectError):
            self._connection._send_disconnect(error.code, error.reason, error.lang)
            self._connection._force_close(error)
        else:
            self._connection.internal_error()

    # --- packets through asyncssh ------------------------------------------------------------------------------

    def send_packet(self, payload: memoryview) -> None:
        """Send a packet through asyncssh, which may keep it until there are new keys."""
        self._connection.send_packet(payload[0], bytes(payload[1:]))

    def _process_packet(self, kind: int, seq: int, packet: SSHPacket) -> Any:
        """Offer the packets that open channels. asyncssh itself handles them by their number later."""
        if kind in _OPENING and self.on_plain_packet(kind, memoryview(packet.get_full_payload())):
            return True
        return self._process(kind, seq, packet)

    # --- replaced methods --------------------------------------------------------------------------------------

    def _write_after_ours(self, data: bytes) -> None:
        """Keep the order: a packet of asyncssh's has a higher sequence number than those sealed before."""
        self.before_write()
        self._write(data)

    def _finish_packet(self, kind: int, seq: int, task: Any = None, is_async: bool = False) -> None:
        self._finish(kind, seq, task, is_async=is_async)
        if is_async:
            self.on_idle()

    def _look_for_end_of_task(self) -> None:
        """Call `on_idle` after a task that asyncssh began before its methods were replaced: it calls the old ones."""
        if self.is_idle:
            self.on_idle()
        elif self._connection._transport is not None:
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_for_end_of_task)

    def _begin_new_keys(self) -> None:
        self._send_deferred()
        self.on_new_keys()


class _OwnChannel:
    """What asyncssh finds for the numbers of own channels. It needs no base class."""

    def __init__(self, state: AsyncsshState) -> None:
        self._state = state

    def process_packet(self, kind: int, seq: int, packet: SSHPacket) -> bool:
        return self._state.on_plain_packet(kind, memoryview(packet.get_full_payload()))

    def log_received_packet(self, kind: int, seq: int, packet: SSHPacket, note: str = "") -> None:
        """Do nothing: a packet of data is not logged."""


class _Channels(dict[int, Any]):
    """asyncssh's channels by their number, and the own ones."""

    def __init__(self, channels: dict[int, Any], own: _OwnChannel) -> None:
        super().__init__(channels)
        self._own = own

    def __missing__(self, number: int) -> _OwnChannel:
        if number < FIRST_CHANNEL:
            raise KeyError(number)
        return self._own


_OPENING = frozenset({90, 91, 92})  # CHANNEL_OPEN, its confirmation and its failure


def _nothing() -> None:
    pass
