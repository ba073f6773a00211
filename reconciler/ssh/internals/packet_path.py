"""The packets of own channels, between a connection's socket and asyncssh.

`PacketPath` stands in front of an asyncssh connection that has logged in. It reads the socket into a buffer that all
connections of the process share, opens the packets there, and gives those of own channels to its handler, as views. It
seals the handler's packets into another shared buffer and writes that to the socket. asyncssh keeps all other packets:
key exchanges, global requests, keepalives, the end of the connection, and channels of its own.

The plain way: if the transport is a channel of a jump host, a cipher has no codec, or asyncssh lacks what this needs,
every packet passes through asyncssh, and the handler is given the same packets.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import asyncssh

from reconciler.ssh.internals import asyncssh_state, codec_aead, seam
from reconciler.ssh.internals.asyncssh_state import AsyncsshState
from reconciler.ssh.internals.codec_aead import BODY_MAX, LENGTH, TAG, codec_for
from reconciler.ssh.internals.packet_reader import OPENED_MAX, PacketReader
from reconciler.ssh.internals.packet_writer import SEALED_MAX, PacketWriter, SendBuffer
from reconciler.ssh.internals.seam import Seam
from reconciler.ssh.internals.turn_budget import QUANTUM, SHORT, TurnBudget
from reconciler.system.event_loop.prompt_acks import PromptAcks
from reconciler.system.event_loop.socket_reader import SocketReader

READ_MAX = 512 << 10  # bytes of one read
UNSENT_MAX = 16 << 20  # unsent bytes beyond which nothing is read, because it could cause another answer
PLAIN_VARIABLE = "TUNNELS_PLAIN_PACKETS"  # set for tests: every packet passes through asyncssh

# What the plain way needs, too. What only packets below asyncssh need is in the two other modules.
SEAMS = (
    Seam(asyncssh.SSHClientConnection, "data_received", "self data datatype"),
    Seam(asyncssh.SSHClientConnection, "pause_writing", "self"),
    Seam(asyncssh.SSHClientConnection, "resume_writing", "self"),
    Seam(asyncssh.SSHClientConnection, "eof_received", "self"),
    Seam(asyncssh.SSHClientConnection, "connection_lost", "self exc"),
    Seam(asyncssh.SSHClientConnection, "send_packet", "self pkttype args handler"),
    Seam(asyncssh.SSHClientConnection, "process_packet", "self pkttype pktid packet"),
    Seam(asyncssh.SSHClientConnection, "_send_deferred_packets", "self"),
    Seam(asyncssh.SSHClientConnection, "_channels"),
    Seam(asyncssh.SSHClientConnection, "_kex_complete"),
    Seam(asyncssh.SSHClientConnection, "_transport"),
)
_log = logging.getLogger(__name__)


class PacketHandler(Protocol):
    """What a path calls."""

    def heard(self, now: float) -> None:
        """Bytes arrived from the server, at `now` (loop time)."""

    def receive_data(self, payload: memoryview) -> bool:
        """Process a packet of data, outside of key exchanges. Return False if it is for `received`."""

    def received(self, kind: int, payload: memoryview) -> bool:
        """Process a packet of a channel: message numbers 90 to 100. Return False if it is asyncssh's.

        It is asyncssh's if it opens a channel that the handler does not want, or if its number is under FIRST_CHANNEL.
        asyncssh may offer it once more before it takes it.
        The payload starts with the message number. It is valid until `batch_ended` returns. An exception ends the
        connection: a DisconnectError with its code and reason.
        """

    def batch_ended(self) -> None:
        """All packets of one read were given to `received`. What is sent now is written with what was sent before."""

    def writable(self) -> None:
        """`full` has become False."""


class PacketSource(Protocol):
    """What has packets to send.

    pending  there may be one
    """

    @property
    def pending(self) -> bool: ...

    def write_packets(self, rooms: Sequence[memoryview]) -> Sequence[int]:
        """Write the next packets, each into a room of its own, and return the lengths of those in the first rooms.

        A payload starts with the message number. There is none only if `pending` becomes False.
        """


class Buffers:
    """The memory that all paths of an event loop share: each uses it within one callback."""

    def __init__(self) -> None:
        # Packets are opened into the memory of those before them, which is in the processor's cache: less CPU time.
        self.plain = memoryview(bytearray(OPENED_MAX + READ_MAX + LENGTH + BODY_MAX + TAG))
        self.received = self.plain[OPENED_MAX:]
        self.first_read = self.received[:READ_MAX]
        self.send = SendBuffer()
        self.turn = TurnBudget()

    @classmethod
    def shared(cls) -> Buffers:
        """Return those of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in _buffers:
            _buffers[loop] = cls()
        return _buffers[loop]


class PacketPath(asyncio.BufferedProtocol):
    """The packet path of one connection. Installs itself.

    is_plain  it takes the plain way
    reader    reads the socket, unless it takes the plain way
    in_batch  the packets of a read are being handled; `batch_ended` follows
    """

    def __init__(
        self, connection: asyncssh.SSHClientConnection, handler: PacketHandler, *, plain: bool = False
    ) -> None:
        """`plain`: take the plain way in any case."""
        # Any: methods are replaced below, and asyncssh has no public access to its transport.
        self._connection = cast("Any", connection)
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._buffers = Buffers.shared()
        self.is_plain = plain or bool(os.environ.get(PLAIN_VARIABLE)) or not _is_suitable(connection)
        self._state = AsyncsshState(connection, plain=self.is_plain)
        self._state.on_idle = self._go_on_later
        self._state.on_new_keys = self._keys_changed
        self._state.on_plain_packet = self._received
        self._packets = PacketReader(self._state, handler.receive_data, handler.received)
        self._writer = PacketWriter(self._state, self._write, self._buffers.send)
        self._state.before_write = self._writer.flush
        self._rest = b""  # received and not processed: an incomplete packet, or what the time did not suffice for
        self._until = 0.0
        self.in_batch = False
        self._batch_end: asyncio.Handle | None = None
        self._socket_full = False
        self._paused = False  # what was read has to be processed first
        self._going_on = False
        if self.is_plain:
            self._receive = connection.data_received
            # The transport calls the three on the connection, by these names.
            self._connection.data_received = self._data_received
            self._connection.pause_writing = self.pause_writing
            self._connection.resume_writing = self.resume_writing
            return
        self._transport: asyncio.Transport = self._connection._transport  # noqa: SLF001 - as above
        sock = self._transport.get_extra_info("socket")
        self._fd: int = sock.fileno()
        self._acks = PromptAcks(sock)
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=0)  # it may call pause_writing
        self.reader = SocketReader(self._transport, self)

    # --- sending -----------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """True if packets sent now would only be kept: the socket is full, or a key exchange is running."""
        return self._socket_full or not self._connection._kex_complete  # noqa: SLF001 - asyncssh keeps packets meanwhile

    def send(self, source: PacketSource) -> bool:
        """Send the packets of a source, which writes them into the memory where they are sealed.

        Return True if there may be more in the next turn of the loop: a call sends a limited number of bytes. Within
        `received` and `batch_ended`, packets are sealed, and written after `batch_ended`.
        """
        writer, sent = self._writer, 0
        connection = self._connection
        while source.pending and sent < SEALED_MAX:
            if self._socket_full or not connection._kex_complete:  # noqa: SLF001 - as in `full`
                break
            for room, length in enumerate(source.write_packets(writer.rooms)):
                writer.add(room, length)
                sent += length
        if not self.in_batch:
            writer.flush()
        return source.pending and not self.full

    def _write(self, data: memoryview) -> None:
        """Write to the socket. The transport gets a copy of what the socket does not take."""
        transport = self._connection._transport  # noqa: SLF001 - asyncssh has no public access to it
        if transport is None:
            return
        self._acks.is_due = False
        if not self._socket_full:
            try:
                taken = os.write(self._fd, data)
            except OSError:
                taken = 0  # full or broken: then the transport meets the same error, and ends the connection
            data = data[taken:]
        if data:
            transport.write(bytes(data))

    def pause_writing(self) -> None:
        """The transport has bytes that the socket does not take."""
        self._socket_full = True

    def resume_writing(self) -> None:
        """The transport has written all."""
        self._socket_full = False
        self._tell_writable()
        if self._paused:
            self._go_on_later()

    def _keys_changed(self) -> None:
        self._loop.call_soon(self._tell_writable)

    def _tell_writable(self) -> None:
        if not self.full and self._state.transport is not None:
            self._handler.writable()

    # --- receiving ---------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory for the next read, after what is left of the one before."""
        if self._state.may_hold:
            self._rest = self._state.reclaim() + self._rest
        if not self._rest:
            return self._buffers.first_read
        held = len(self._rest)
        self._buffers.received[:held] = self._rest
        return self._buffers.received[held : held + READ_MAX]

    def buffer_updated(self, nbytes: int) -> None:
        """Process what was read."""
        now = self._loop.time()
        self._handler.heard(now)
        if now >= self._state.hears_again_at:
            self._state.heard(now)
        acks = self._acks
        acks.arrived(now)
        self._process(len(self._rest) + nbytes, now)
        if acks.eager and acks.is_due:
            acks.acknowledge()

    def _go_on_later(self) -> None:
        """Process the rest in the next turn of the loop."""
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        if self._state.transport is not None:
            self.get_buffer(0)
            self._process(len(self._rest), self._loop.time())

    def _process(self, length: int, now: float) -> None:
        """Process the first `length` bytes of the shared buffer, and keep what is left. `now`: loop time."""
        data = self._buffers.received[:length]
        self._rest = b""
        is_short = length < SHORT
        self._until = now + QUANTUM if is_short else self._buffers.turn.begin(now)
        self.in_batch = True
        try:
            done = self._packets.read(data, self._buffers.plain, self._may_go_on)
            self._handler.batch_ended()
        except Exception as error:  # noqa: BLE001 - any error of the handler ends the connection, as in asyncssh
            self._state.fail(error)
            return
        finally:
            self.in_batch = False
            if self._buffers.send.used:
                self._writer.flush()
            if not is_short:
                self._buffers.turn.end(self._loop.time())
        if (done < length or self._paused or self._socket_full) and self._state.transport is not None:
            self._rest = bytes(data[done:])
            self._pause_or_resume()

    def charge(self, seconds: float) -> None:
        """Shorten the present work by the time that a packet costs later."""
        self._until -= seconds

    def _may_go_on(self) -> bool:
        if self._state.transport is None or self._transport.get_write_buffer_size() > UNSENT_MAX:
            return False
        return self._loop.time() < self._until

    def _pause_or_resume(self) -> None:
        """Stop reading the socket while the rest has packets that can be processed without another byte."""
        waits = not self._state.is_idle
        unsent = self._transport.get_write_buffer_size() > UNSENT_MAX
        if waits or unsent or self._packets.has_packet(memoryview(self._rest)):
            if not self._paused:
                self._paused = True
                self.reader.stop()
            if not waits and not unsent:
                self._go_on_later()
        elif self._paused:
            self._paused = False
            self.reader.start()

    def _received(self, kind: int, payload: memoryview) -> bool:
        """Give a packet to the handler, from either way."""
        taken = self._handler.received(kind, payload)
        if taken and not self.in_batch and self._batch_end is None:
            self._batch_end = self._loop.call_soon(self._end_plain_batch)
        return taken

    def _end_plain_batch(self) -> None:
        self._batch_end = None
        if self._state.transport is not None:
            try:
                self._handler.batch_ended()
            except Exception as error:  # noqa: BLE001 - as in `_process`
                self._state.fail(error)

    def _data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Pass bytes on in the plain way."""
        now = self._loop.time()
        self._handler.heard(now)
        if now >= self._state.hears_again_at:
            self._state.heard(now)
        self._receive(data, datatype)

    # --- the end of the transport ------------------------------------------------------------------------------

    def eof_received(self) -> bool | None:
        """Pass it on to asyncssh."""
        return self._connection.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on to asyncssh."""
        self.reader.close()
        self._connection.connection_lost(exc or self.reader.error)


def _is_suitable(connection: Any) -> bool:
    """Return True if packets can pass below asyncssh: the transport is a socket, and both ciphers have codecs."""
    if problems := _problems():
        _warn_once(f"asyncssh {asyncssh.__version__} {'; '.join(problems)}")
        return False
    transport = connection._transport  # noqa: SLF001 - asyncssh has no public access to it
    # The transport may be a channel of a jump host, whose extra information is that of the outer connection.
    if not isinstance(transport, asyncio.Transport) or transport.get_extra_info("socket") is None:
        return False
    for encryption, name in (
        (connection._send_encryption, "send_cipher"),  # noqa: SLF001 - as above
        (connection._recv_encryption, "recv_cipher"),  # noqa: SLF001 - as above
    ):
        if codec_for(encryption) is None:
            _warn_once(f"there is no codec for {connection.get_extra_info(name)}")
            return False
    return True


@cache
def _problems() -> list[str]:
    return seam.problems((*asyncssh_state.SEAMS, *codec_aead.SEAMS))


@cache
def _warn_once(text: str) -> None:
    _log.warning("packets of channels pass through asyncssh, which is slower: %s", text)


_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, Buffers] = WeakKeyDictionary()
