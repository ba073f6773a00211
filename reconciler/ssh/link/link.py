"""A link: one live SSH connection with its channels, its keepalive and its end.

Owns an asyncssh connection from login to its end. Input: the result of `dial`. Output: channels and listeners. Calls
`lost` once with the failure when the connection ends, and `recovered` when a stalled one receives data again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import asyncssh

from reconciler.core.descriptor_budget import Place
from reconciler.core.observed import Failure
from reconciler.core.rules.origin import UNIX, Origin, TcpOrigin
from reconciler.core.spec import FarTcp, FarUnix, TargetSettings
from reconciler.ssh.channels.messages import DirectTcp, DirectUnix, OpenError
from reconciler.ssh.channels.mux import LimitError
from reconciler.ssh.connect import debug_log
from reconciler.ssh.connect.dial import Dialled
from reconciler.ssh.errors.connect_errors import from_lost
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.internals import ignore_packets
from reconciler.ssh.internals.global_requests import Answer
from reconciler.ssh.link.channel_driver import ChannelDriver
from reconciler.ssh.link.channel_stream import ChannelStream
from reconciler.ssh.link.opening import Done, Opening, PendingOpenings
from reconciler.ssh.link.remote_listeners import RemoteListeners
from reconciler.ssh.relay.relay import Relay

_RTT, _MIN_RTT, _INFO_SIZE = 68, 148, 152  # in Linux's struct tcp_info
DELAY_UNKNOWN = 0.03  # seconds, assumed for the first channel of a path that cannot be measured
DELAY_VALID = 0.1  # seconds for which a measured delay is used: thousands of channels may open meanwhile
SILENT_GRACE = 0.5  # seconds for the keepalive reply: an idle link is silent for a whole interval


class LinkClient(asyncssh.SSHClient):
    """Receives the connection's callbacks from asyncssh, and keeps an early end until the `Link` exists."""

    def __init__(self, place: Place | None = None) -> None:
        """`place`: the connection's place in the descriptor budget, released when it ends."""
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
    """One SSH connection to a target.

    number     its id in the observed state
    lost       called once with the failure when the connection ends without our request
    doubted    called when the link may be dead: see `stalled`
    recovered  called when data arrives after that
    """

    def __init__(
        self,
        number: int,
        target: str,
        dialled: Dialled,
        client: LinkClient,
        settings: TargetSettings,
        lost: Callable[[Failure], None],
        recovered: Callable[[], None],
        doubted: Callable[[], None] = lambda: None,
    ) -> None:
        self.number = number
        self.target = target
        self.host = dialled.host
        self.dialled = dialled
        self.connection = dialled.connection
        self.forwards = RemoteListeners(dialled.server, dialled.guard.requests, lambda: self.dial_timeout)
        self._requests = dialled.guard.requests
        self._settings = settings
        self._lost = lost
        self._recovered = recovered
        self._doubted = doubted
        self._loop = asyncio.get_running_loop()
        self._silent = False
        self._grace = SILENT_GRACE
        self._openings = PendingOpenings(settings.dial_timeout, self._check_server, lambda: self.channels.heard_at)
        self._server_check: asyncio.Future[Answer] | None = None  # a request that only shows whether the server answers
        self._closing = False
        self._answer_time: float | None = None  # the least, of requests for channels
        self._least_delay = DELAY_UNKNOWN
        self._delay_until = 0.0  # when it is to be measured again
        ignore_packets.omit(dialled.connection)
        self.channels = ChannelDriver(dialled.connection, dialled.guard, self.forwards.offer)
        self._requests.last_heard = lambda: self.channels.heard_at
        client.on_lost = self._connection_lost
        client.on_debug = self.forwards.debug_message
        if client.ended:
            self._loop.call_soon(self._connection_lost, client.error)

    # --- the connection ----------------------------------------------------------------------------------------

    def _heard_again(self, now: float) -> None:
        self._silent = False
        # It answers late, but it answers: do not doubt it again for the same delay.
        interval = self._settings.keepalive_interval
        late = now - self.channels.heard_at - interval
        self._grace = max(self._grace, min(2 * late, interval))
        self._recovered()

    def doubt(self) -> None:
        """Give the link no clients until the server sends something. Those that wait for a channel wait for a link."""
        if not self._silent:
            self._silent = True
            self.channels.when_heard = self._heard_again
            self._doubted()
        for opening in self._openings:
            opening.fail(ServerSilent("the SSH server sent nothing"))

    async def is_trusted(self) -> bool:
        """Return True if its host key, and those of its jump hosts, are still trusted."""
        return await self.dialled.still_trusted()

    @property
    def gone(self) -> bool:
        """True if the connection has ended or is being closed."""
        return self._closing

    @property
    def idle(self) -> float:
        """Seconds since the last bytes from the server."""
        return self._loop.time() - self.channels.heard_at

    @property
    def closes_dead_channels(self) -> bool:
        """True if the server closes a channel whose destination has gone.

        Dropbear does not: it sends EOF, drops the bytes that it cannot write, stops adjusting the window, and waits for
        our close. Our close waits until the unsent bytes are taken.
        """
        return self.forwards.cancels

    @property
    def dial_timeout(self) -> float:
        """Seconds that a destination may take to answer."""
        return self._settings.dial_timeout

    @property
    def stalled(self) -> bool:
        """True if nothing arrived for one keepalive interval, or in answer to a request: the link may be dead."""
        interval = self._settings.keepalive_interval
        return self._silent or (interval > 0 and self.idle > interval + self._grace)

    def apply_settings(self, settings: TargetSettings) -> None:
        """Apply the settings that change in place."""
        self._settings = settings
        self._openings.set_limit(settings.dial_timeout)
        self.connection.set_keepalive(settings.keepalive_interval or None, settings.keepalive_count_max)
        if settings.log_level == "debug":
            debug_log.watch(self.connection, self.target)
        else:
            debug_log.unwatch(self.connection)

    def rtt(self) -> float | None:
        """Return the round trip time to the target in seconds, None until it is known.

        For a direct connection it is the kernel's smoothed one (TCP_INFO.tcpi_rtt). Any other socket leads to the first
        jump host or to a proxy command only. Then the time to the answer of the latest request counts, such as a
        keepalive, or else the fastest answer to a request for a channel.
        """
        direct = None if self.dialled.hops else self._tcp_info(_RTT)
        measured = (direct, self._requests.round_trip, self._answer_time)
        return next((seconds for seconds in measured if seconds is not None), None)

    def _delay(self) -> float:
        """Return the least round trip of the path in seconds, or more.

        The connection's socket leads to the first jump host or to a proxy command only. Then the fastest answer to a
        request for a channel says most: it includes the server's dial of a destination.
        """
        now = self._loop.time()
        if now >= self._delay_until:
            direct = None if self.dialled.hops else self._tcp_info(_MIN_RTT)
            self._delay_until = now + DELAY_VALID
            self._least_delay = direct if direct is not None else self._answer_time or DELAY_UNKNOWN
        return self._least_delay

    def _tcp_info(self, offset: int) -> float | None:
        """Return a time of TCP_INFO in seconds, None if it is not available."""
        sock = self.connection.get_extra_info("socket")
        # A proxy command is connected by unix sockets, which have no TCP_INFO.
        if sock is None or sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        return float(struct.unpack_from("=I", info, offset)[0]) / 1e6 if len(info) >= offset + 4 else None

    def close(self) -> None:
        """Close the connection in an orderly way. `lost` is not called."""
        self._closing = True
        self.connection.close()

    def abort(self) -> None:
        """Close the connection at once. `lost` is not called."""
        self._closing = True
        self.connection.abort()

    def _connection_lost(self, exc: Exception | None) -> None:
        debug_log.unwatch(self.connection)
        by_itself, self._closing = not self._closing, True
        self.channels.end()
        if by_itself:
            failure = from_lost(exc, "", answers=self._requests.answered > 0)
            self._lost(self.dialled.command.explain(failure) if self.dialled.command is not None else failure)

    # --- channels ----------------------------------------------------------------------------------------------

    def open(self, relay: Relay, to: FarTcp | FarUnix, origin: Origin, done: Done) -> None:
        """Open a channel for the relay, and call `done` when it is open, or with the exception.

        It is a ChannelOpenError; TimeoutError after the dial timeout; ServerSilent instead if the server, too, sends
        nothing: the link is then in doubt.
        """

        def answered(error: Exception | None, seconds: float) -> None:
            if error is None:
                if self._answer_time is None or seconds < self._answer_time:
                    self._answer_time = seconds
            elif isinstance(error, ServerSilent):
                self.doubt()
            done(error, seconds)

        opening = Opening(relay, self._openings, answered)
        try:
            opening.begin(self.channels.open(_request(to, origin), opening, self._delay()))
        except LimitError as error:
            opening.open_failed(OpenError.RESOURCE_SHORTAGE, str(error))

    def _check_server(self) -> None:
        """Send a request that shows whether the server answers at all, or only the destination does not."""
        if (self._server_check is None or self._server_check.done()) and not self.gone:
            # Not the keepalive's own timer: its interval may be longer than the dial timeout.
            self._server_check = self._requests.ping()

    async def open_stream(self, to: FarTcp | FarUnix) -> ChannelStream:
        """Open a channel for a probe. Raises ChannelOpenError, and TimeoutError after the dial timeout."""
        stream = ChannelStream(self.channels.ready)
        try:
            await stream.open(
                lambda handler: self.channels.open(_request(to, UNIX), handler, self._delay()),
                self._settings.dial_timeout,
            )
        except LimitError as error:
            raise asyncssh.ChannelOpenError(OpenError.RESOURCE_SHORTAGE, str(error)) from None
        return stream


def _request(to: FarTcp | FarUnix, origin: Origin) -> DirectTcp | DirectUnix:
    match to:
        case FarTcp():
            host, port = (origin.host, origin.port) if isinstance(origin, TcpOrigin) else ("", 0)
            return DirectTcp(to.host, to.port, host, port)
        case FarUnix():
            return DirectUnix(to.path)
