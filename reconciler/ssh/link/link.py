"""One live SSH connection: its channels, its write gate, its keepalive, its end.

Owns an asyncssh connection from the moment it is logged in. In: what `dial` brought. Out: channels and listeners on
request; `lost` is called once, when the connection is gone, with the failure; `heard` when a silent one speaks again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import asyncssh
from asyncssh.constants import MSG_IGNORE

from reconciler.core.descriptor_budget import Place
from reconciler.core.observed import Failure
from reconciler.core.rules.origin import Origin, TcpOrigin
from reconciler.core.spec import FarTcp, FarUnix, TargetSettings
from reconciler.ssh.connect import debug_log
from reconciler.ssh.connect.dial import Dialled, still_trusted
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.link.remote_listeners import RemoteListeners
from reconciler.ssh.relay.relay import ChannelSession, Hold, Relay

# Receive windows follow the path: one round trip's worth of a fast one, so that a download over 50 ms is not slower
# than its line, and no more than that, because a larger one only moves the queue from the server into our caches
# (measured: 2 MiB is the fastest on loopback, 64 MiB half as fast). They come from a budget for each link, so that
# a thousand readers that stop reading cannot make us buffer more than the budget and a thousand small windows.
WINDOW_RATE = 1 << 30  # bytes a second
WINDOW_DEFAULT = 2 << 20
WINDOW_MIN = 256 << 10
WINDOW_BUDGET = 128 << 20
RELEASED_AT_ONCE = 4
SILENT_GRACE = 0.5  # an idle link is silent for a whole interval by right; the answer needs this long to come


class LinkClient(asyncssh.SSHClient):
    """asyncssh's side of the link: remembers its end until somebody wants to know."""

    def __init__(self, place: Place | None = None) -> None:
        """`place`: the connection's place in the budget of descriptors, given back when it ends."""
        self._place = place
        self.ended = False
        self.error: Exception | None = None
        self.on_lost: Callable[[Exception | None], None] | None = None
        self.on_debug: Callable[[str], None] | None = None

    def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
        if self.on_debug is not None:
            self.on_debug(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error = True, exc
        if self._place is not None:
            self._place.give_back()
        if self.on_lost is not None:
            self.on_lost(exc)


class Link:
    """See the module. `number` is its id in what is observed."""

    def __init__(
        self,
        number: int,
        target: str,
        dialled: Dialled,
        client: LinkClient,
        settings: TargetSettings,
        lost: Callable[[Failure], None],
        heard: Callable[[], None],
    ) -> None:
        self.number = number
        self.target = target
        self.host = dialled.host
        self.dialled = dialled
        self.connection = dialled.connection
        self.forwards = RemoteListeners(dialled.connection)
        self._guard = dialled.guard
        self._inbound = dialled.guard.inbound
        self._socket_full = False
        self._settings = settings
        self._lost = lost
        self._heard_again = heard
        self._loop = asyncio.get_running_loop()
        self._last_heard = self._loop.time()
        self._silent = False
        self._asked: asyncio.Task[None] | None = None  # for a sign of life
        self._waiting: dict[Relay, None] = {}  # an ordered set
        self._granted = 0
        self._closing = False
        self._unflushed: list[Relay] = []
        self._hook()
        client.on_lost = self._connection_lost
        client.on_debug = self.forwards.heard
        if client.ended:
            self._loop.call_soon(self._connection_lost, client.error)

    # --- the connection ----------------------------------------------------------------------------------------

    def _hook(self) -> None:
        """Take over the connection's flow control and listen in on its life.

        pause_writing and resume_writing are methods of asyncio's Protocol, which the transport calls by name;
        asyncssh's own do nothing. send_packet is asyncssh's own, and calls itself with an SSH_MSG_IGNORE before each
        packet, as CBC ciphers need it; with others that is half the work.
        """
        connection = self.connection
        self._inbound.heard = self._heard
        self._inbound.worked = self._flush
        self._guard.exchanged = self._release_more
        self._guard.refused = self.forwards.refused
        send = connection.send_packet

        def send_packet(pkttype: int, *args: bytes, handler: Any = None) -> None:
            if pkttype != MSG_IGNORE:
                send(pkttype, *args, handler=handler)

        if not str(connection.get_extra_info("send_cipher")).endswith("-cbc"):
            connection.send_packet = send_packet  # type: ignore[method-assign]  # the hook described above
        connection.pause_writing = self._pause  # type: ignore[method-assign]  # as above
        connection.resume_writing = self._resume  # type: ignore[method-assign]  # as above

    def _heard(self) -> None:
        self._last_heard = self._loop.time()
        if self._silent:
            self._silent = False
            self._heard_again()

    @property
    def full(self) -> bool:
        """Whether what is sent now would only be kept: in the socket's buffer, or until a key exchange ends."""
        return self._socket_full or self._guard.exchanging

    def _pause(self) -> None:
        self._socket_full = True

    def _resume(self) -> None:
        self._socket_full = False
        self._release_more()

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for relay in unflushed:
            relay.flush()

    def _release_some(self) -> None:
        # A few at a time, in the order in which they came: they read in the next turn of the loop, and if that fills
        # the socket again the rest keep their places. Releasing all at once would put a buffer each in line.
        for relay in tuple(islice(self._waiting, RELEASED_AT_ONCE)):
            del self._waiting[relay]
            relay.release_client(Hold.GATE)
        if self._waiting:
            self._loop.call_soon(self._release_more)

    def _release_more(self) -> None:
        if not self.full:
            self._release_some()

    def flushes_later(self, relay: Relay) -> bool:
        """While bytes are parsed there may be more for this client: it is written when that is done."""
        if self._inbound.working:
            self._unflushed.append(relay)
        return self._inbound.working

    def wait(self, relay: Relay) -> None:
        """Stand in line until the socket has room; the relay has stopped reading."""
        self._waiting[relay] = None

    def leave(self, relay: Relay) -> None:
        self._waiting.pop(relay, None)

    async def is_trusted(self) -> bool:
        """Whether the host keys it showed, and its jump hosts', would still be believed."""
        return await still_trusted(self.connection)

    @property
    def gone(self) -> bool:
        """It has ended, or is being ended."""
        return self._closing

    @property
    def tells_of_ends(self) -> bool:
        """Whether the server closes a channel whose far end has gone. Dropbear says EOF, drops what it cannot write,
        asks for no more, and waits for our close, which waits for it to take the rest.
        """
        return self.forwards.cancels

    @property
    def dial_timeout(self) -> float:
        """How long a destination may take to answer, in seconds."""
        return self._settings.dial_timeout

    @property
    def stalled(self) -> bool:
        """Nothing was heard for one keepalive interval: it may be dead, so nobody new is sent into it."""
        interval = self._settings.keepalive_interval
        if interval and self._loop.time() - self._last_heard > interval + SILENT_GRACE:
            self._silent = True
        return self._silent

    def tune(self, settings: TargetSettings) -> None:
        """Apply settings that change in place."""
        self._settings = settings
        self.connection.set_keepalive(settings.keepalive_interval or None, settings.keepalive_count_max)
        if settings.log_level == "debug":
            debug_log.watch(self.connection, self.target)
        else:
            debug_log.unwatch(self.connection)

    def rtt(self) -> float | None:
        """The kernel's smoothed round trip time in seconds (TCP_INFO.tcpi_rtt), None where it cannot be known."""
        sock = self.connection.get_extra_info("socket")
        # The way through a proxy command is a pair of unix sockets, which have no such thing.
        if sock is None or sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return float(struct.unpack_from("=I", info, 68)[0]) / 1e6

    def close(self) -> None:
        """End it in an orderly way; `lost` is not called for an end we asked for."""
        self._closing = True
        self.connection.close()

    def abort(self) -> None:
        """End it now."""
        self._closing = True
        self.connection.abort()

    def _connection_lost(self, exc: Exception | None) -> None:
        debug_log.unwatch(self.connection)
        if not self._closing:
            self._closing = True
            self._lost(from_lost(exc, ""))

    # --- its channels ------------------------------------------------------------------------------------------

    def window(self) -> int:
        """The receive window of the next channel, in bytes; `release` gives it back."""
        wanted = max(WINDOW_DEFAULT, int((self.rtt() or 0.0) * WINDOW_RATE))
        window = max(WINDOW_MIN, min(wanted, (WINDOW_BUDGET - self._granted) // 2))
        self._granted += window
        return window

    def release(self, window: int) -> None:
        self._granted -= window

    async def open(self, relay: Relay, to: FarTcp | FarUnix, origin: Origin, window: int) -> None:
        """Open a channel for the relay. Raises what asyncssh raises, TimeoutError after the dial timeout;
        ServerSilent if the server, when it was asked at half the time, has said nothing at all.

        The request itself is never cancelled: that would leak the channel on both sides (DESIGN section 10). One
        that is answered too late is closed by the relay when it hears of it.
        """
        request = asyncio.ensure_future(self._request(relay, to, origin, window))
        limit = self._settings.dial_timeout
        ask_at = self._loop.time() + limit / 2
        asking = self._loop.call_at(ask_at, self._ask)
        try:
            done, _ = await asyncio.wait({request}, timeout=limit)
        finally:
            asking.cancel()
            if not request.done():
                request.add_done_callback(_forget)
        if not done:
            raise (TimeoutError if self._last_heard >= ask_at else ServerSilent)(f"no answer within {limit:g} s")
        try:
            request.result()
        finally:
            # Else its exception, the traceback, this frame and the request hold each other, with all of the client's
            # objects. After some hundred refused clients the cyclic collector stopped the loop for 0.5 to 0.9 s.
            del request, done

    def _ask(self) -> None:
        """See whether it is the server that does not answer, or only the destination behind it."""
        if (self._asked is None or self._asked.done()) and not self.gone:
            # Not the keepalive's own timer: an interval may be longer than a dial may take.
            self._asked = self.connection.create_task(self.connection._make_keepalive_request())  # noqa: SLF001 - as said

    async def open_stream(self, to: FarTcp | FarUnix) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        """A channel of our own, for a probe; never cancelled while it opens, as in `open`. Raises as `open` does."""
        request = asyncio.ensure_future(self._stream(to))
        try:
            done, _ = await asyncio.wait({request}, timeout=self._settings.dial_timeout)
        except asyncio.CancelledError:
            request.add_done_callback(_close_late)  # also if it is open since this turn of the loop
            raise
        if not done:
            request.add_done_callback(_close_late)
            raise TimeoutError(f"no answer within {self._settings.dial_timeout:g} s")
        return request.result()

    async def _stream(self, to: FarTcp | FarUnix) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        match to:
            case FarTcp():
                return await self.connection.open_connection(to.host, to.port)
            case FarUnix():
                return await self.connection.open_unix_connection(to.path)

    async def _request(self, relay: Relay, to: FarTcp | FarUnix, origin: Origin, window: int) -> None:
        match to:
            case FarTcp():
                host, port = (origin.host, origin.port) if isinstance(origin, TcpOrigin) else ("", 0)
                await self.connection.create_connection(
                    lambda: self._far(relay), to.host, to.port, host, port, window=window
                )
            case FarUnix():
                # Far has all that a unix channel's session has; asyncssh's types know it as a TCP channel's only.
                factory = cast("asyncssh.session.SSHUNIXSessionFactory[bytes]", lambda: self._far(relay))
                await self.connection.create_unix_connection(factory, to.path, window=window)

    def _far(self, relay: Relay) -> ChannelSession:
        """The channel is open, unless the answer and the end of the connection came in one turn of the loop."""
        if self.gone:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "SSH connection closed")
        return ChannelSession(relay)


def _close_late(request: asyncio.Future[tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]]) -> None:
    if not request.cancelled() and request.exception() is None:
        request.result()[1].channel.abort()


def _forget(request: asyncio.Future[None]) -> None:
    """A late answer: a success was closed by its relay, a failure concerns nobody any more."""
    if not request.cancelled():
        request.exception()
