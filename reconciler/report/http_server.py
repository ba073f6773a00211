"""An HTTP server on bound sockets, with limits on its connections.

Owns the connections. aiohttp has no limit for a client that connects and sends nothing, or reads nothing. This server
closes a connection that has no request in progress for `IDLE_TIMEOUT` seconds, and has at most `limit` connections.
A new connection above the limit replaces an old one, so that no client can lock out health checks.

A client may half-close the connection after its last request (`nc -N` does). It still gets its responses, within
`IDLE_TIMEOUT` seconds. An event subscriber that half-closes its connection is taken to have left.

The server accepts clients itself, a few in each iteration of the event loop. asyncio's servers accept a hundred before
the first one can be counted, and without free descriptors they log a traceback for each, every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web_protocol import RequestHandler

from reconciler.report.event_stream import SUBSCRIBERS, Subscribers

IDLE_TIMEOUT = 15.0
LINGERING = 2.0  # seconds to read the rest of a request body that no handler has read
SWEEP_INTERVAL = 1.0
LIMIT = 128
ACCEPTS_MAX = 8  # clients accepted in one iteration of the event loop
RETRY_AFTER = 0.2  # seconds until the next accept, if the process has no free descriptor

log = logging.getLogger(__name__)
_aiohttp_log = logging.getLogger(f"{__name__}.aiohttp")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Serving:
    """The server of one application, which must not be running yet. Owns its connections until `stop`."""

    def __init__(self, app: web.Application, *, limit: int = LIMIT, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._open: dict[_Connection, None] = {}  # in the order of their arrival
        self._idle_since: dict[_Connection, float] = {}  # connections without a request in progress, longest first
        self._half_closed: dict[_Connection, float] = {}  # when the client half-closed each
        self._subscribers = Subscribers(self._half_closed.keys(), limit=max(1, limit // 4))
        self._listeners: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()
        self._setups: set[asyncio.Task[object]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        app[SUBSCRIBERS] = self._subscribers
        app.middlewares.insert(0, self._track_request)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            handler_cancellation=True,  # a handler ends when its client leaves: event streams end at once
            shutdown_timeout=1.0,
        )

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on these listening sockets and take ownership of them."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in sockets:
            sock.setblocking(False)
            self._listeners.append(sock)
            self._listen(sock)
        self._sweeper = loop.create_task(self._sweep(), name="http sweeper")

    async def stop(self) -> None:
        """Close everything. Responses in progress get one second."""
        for retry in self._retries:
            retry.cancel()
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        await asyncio.gather(*self._setups, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._runner.cleanup()

    @property
    def connections(self) -> list[RequestHandler]:
        """The open connections."""
        return list(self._open)

    def _listen(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock, self._ready, sock)

    def _ready(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                client, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.debug("cannot accept a client: %s", error)
                self._retry_later(sock)
                return
            client.setblocking(False)
            setup: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._set_up(client))
            self._setups.add(setup)
            setup.add_done_callback(self._setups.discard)

    async def _set_up(self, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, client)
        except BaseException as error:
            client.close()
            if not isinstance(error, OSError):  # an OSError: the client has left
                raise

    def _retry_later(self, sock: socket.socket) -> None:
        """Accept again later: clients wait in the backlog. Close an idle connection to free a descriptor."""

        def retry() -> None:
            self._retries.discard(handle)
            self._listen(sock)

        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        handle = loop.call_later(RETRY_AFTER, retry)
        self._retries.add(handle)
        if self._idle_since:
            self._end(next(iter(self._idle_since)))

    def _connection(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        return _Connection(
            self._opened,
            self._lost,
            self._client_ended,
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._idle_timeout,
            lingering_time=LINGERING,
            logger=_aiohttp_log,
        )

    def _opened(self, connection: _Connection) -> None:
        if len(self._open) >= self._limit:
            # Close an idle connection if there is one: its client loses no response and can reconnect.
            self._end(next(iter(self._idle_since or self._open)))
        self._open[connection] = None
        self._idle_since[connection] = asyncio.get_running_loop().time()

    def _lost(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        self._idle_since.pop(connection, None)
        self._half_closed.pop(connection, None)

    def _client_ended(self, connection: _Connection) -> bool:
        """Return True if the connection stays open for responses in progress."""
        if connection in self._subscribers.connections:
            return False
        self._half_closed[connection] = asyncio.get_running_loop().time()
        return True

    def _end(self, connection: _Connection) -> None:
        self._lost(connection)
        if connection.transport is not None:
            connection.transport.abort()

    @web.middleware
    async def _track_request(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        self._idle_since.pop(connection, None)
        try:
            return await handler(request)
        finally:
            if connection in self._open:
                self._idle_since[connection] = asyncio.get_running_loop().time()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_INTERVAL, self._idle_timeout))
            now = loop.time()
            waiting = [*self._idle_since.items(), *self._half_closed.items()]
            for connection in [one for one, since in waiting if now - since >= self._idle_timeout]:
                self._end(connection)


class _Connection(RequestHandler):
    """aiohttp's handler of one connection. Calls back when it opens, is lost, or is half-closed by the client.

    The response to a malformed request does not reveal the version of aiohttp.
    """

    __slots__ = ("_client_ended", "_has_client_ended", "_lost", "_opened")

    def __init__(
        self,
        opened: Callable[[_Connection], None],
        lost: Callable[[_Connection], None],
        client_ended: Callable[[_Connection], bool],
        server: web.Server,
        **more: Any,
    ) -> None:
        super().__init__(server, **more)
        self._opened = opened
        self._lost = lost
        self._client_ended = client_ended
        self._has_client_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._lost(self)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio uses the result, aiohttp declares none
        """Return True to keep the transport open: a request is in progress or queued."""
        waits_for_request = self._waiter is not None and not self._waiter.done()
        if waits_for_request or not self._request_count or not self._client_ended(self):
            return False
        self._has_client_ended = True
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        if self._has_client_ended and not self._messages:
            finished[0].force_close()  # no request can follow
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = "tunnels"  # this response does not pass through a middleware
        return response


def _is_ours(record: logging.LogRecord) -> bool:
    """Return True if the log record is an internal error. A malformed request is not: any client can send one."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ClientConnectionResetError):  # the client left before the response
        return False
    if not isinstance(error, BadHttpMessage | web.RequestPayloadError):
        return True
    text = error.message if isinstance(error, BadHttpMessage) else type(error).__name__
    # The part after the colon quotes the request: a header may contain a password.
    log.debug("%s: %s", record.getMessage(), text.partition(":")[0][:80])
    return False


_aiohttp_log.addFilter(_is_ours)
