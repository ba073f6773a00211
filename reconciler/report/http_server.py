"""An HTTP server on sockets that are bound already, and its bounds.

Owns the connections. aiohttp has no limit of its own for a client that connects and says nothing, or reads nothing:
here a connection that is not being answered for `PATIENCE` seconds is ended, and there are at most `limit` of them. One
more takes the place of another, so that whoever holds them all cannot keep a probe out.

A client may end its side of the connection after its last request (`nc -N` does). It still gets the answers, within
`PATIENCE` seconds. A reader of events that does so has left.

It accepts clients itself, a few in one turn of the event loop: asyncio's servers accept a hundred before the first of
them can be counted, and without descriptors log a traceback for each, every second.
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

from reconciler.report.event_stream import READERS, Readers

PATIENCE = 15.0
LINGERING = 2.0  # seconds in which the rest of a body that nobody asked for may come
SWEEP = 1.0
LIMIT = 128
AT_ONCE = 8  # clients accepted in one turn of the event loop
RETRY_AFTER = 0.2  # seconds, where the process has no descriptor left

log = logging.getLogger(__name__)
_aiohttps = logging.getLogger(f"{__name__}.aiohttp")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Serving:
    """See the module. Made with an application that is not running yet; it lives until `stop`."""

    def __init__(self, app: web.Application, *, limit: int = LIMIT, patience: float = PATIENCE) -> None:
        self._limit = limit
        self._patience = patience
        self._open: dict[_Connection, None] = {}  # in the order they came
        self._idle_since: dict[_Connection, float] = {}  # those that are not being answered, the longest so first
        self._half_closed: dict[_Connection, float] = {}  # when their clients ended their side
        self._readers = Readers(self._half_closed.keys(), most=max(1, limit // 4))
        self._listeners: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()
        self._making: set[asyncio.Task[object]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        app[READERS] = self._readers
        app.middlewares.insert(0, self._mark)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            handler_cancellation=True,  # who has left is not answered: followers of events end at once
            shutdown_timeout=1.0,
        )

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on these listening sockets, which are ours from now on."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in sockets:
            sock.setblocking(False)
            self._listeners.append(sock)
            self._listen(sock)
        self._sweeper = loop.create_task(self._sweep(), name="http sweeper")

    async def stop(self) -> None:
        """Close everything; answers under way get a second."""
        for retry in self._retries:
            retry.cancel()
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        await asyncio.gather(*self._making, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._runner.cleanup()

    @property
    def connections(self) -> list[RequestHandler]:
        """Those that are open."""
        return list(self._open)

    def _listen(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock, self._ready, sock)

    def _ready(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                client, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.debug("cannot accept a client: %s", error)
                self._try_later(sock)
                return
            client.setblocking(False)
            making: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._take(client))
            self._making.add(making)
            making.add_done_callback(self._making.discard)

    async def _take(self, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, client)
        except BaseException as error:
            client.close()
            if not isinstance(error, OSError):  # else it has left
                raise

    def _try_later(self, sock: socket.socket) -> None:
        """The next client waits in the socket's queue; a client that can connect again makes room for it."""

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
            self._came,
            self._left,
            self._client_ended,
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._patience,
            lingering_time=LINGERING,
            logger=_aiohttps,
        )

    def _came(self, connection: _Connection) -> None:
        if len(self._open) >= self._limit:
            # One that waits for a request, if there is any: its client can connect again and loses nothing.
            self._end(next(iter(self._idle_since or self._open)))
        self._open[connection] = None
        self._idle_since[connection] = asyncio.get_running_loop().time()

    def _left(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        self._idle_since.pop(connection, None)
        self._half_closed.pop(connection, None)

    def _client_ended(self, connection: _Connection) -> bool:
        """Return True if the connection stays open for the answers that are due."""
        if connection in self._readers.connections:
            return False
        self._half_closed[connection] = asyncio.get_running_loop().time()
        return True

    def _end(self, connection: _Connection) -> None:
        self._left(connection)
        if connection.transport is not None:
            connection.transport.abort()

    @web.middleware
    async def _mark(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
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
            await asyncio.sleep(min(SWEEP, self._patience))
            now = loop.time()
            waiting = [*self._idle_since.items(), *self._half_closed.items()]
            for connection in [one for one, since in waiting if now - since >= self._patience]:
                self._end(connection)


class _Connection(RequestHandler):
    """aiohttp's handler of one connection. Reports when it opens, when it is lost and when the client ends its side.

    The answer to what is not HTTP does not name aiohttp's version.
    """

    __slots__ = ("_came", "_client_ended", "_has_client_ended", "_left")

    def __init__(
        self,
        came: Callable[[_Connection], None],
        left: Callable[[_Connection], None],
        client_ended: Callable[[_Connection], bool],
        server: web.Server,
        **more: Any,
    ) -> None:
        super().__init__(server, **more)
        self._came = came
        self._left = left
        self._client_ended = client_ended
        self._has_client_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._came(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._left(self)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes the answer, aiohttp has none to give
        """Return True to keep the transport open: a request is being answered, or waits for its turn."""
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
        response.headers["Server"] = "tunnels"  # no middleware sees this answer
        return response


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it is for us to mend. A request that breaks the rules of HTTP is not, and anybody can send one."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ClientConnectionResetError):  # the client has left before it was answered
        return False
    if not isinstance(error, BadHttpMessage | web.RequestPayloadError):
        return True
    said = error.message if isinstance(error, BadHttpMessage) else type(error).__name__
    # Behind its colon stands what was sent: a header may hold a password.
    log.debug("%s: %s", record.getMessage(), said.partition(":")[0][:80])
    return False


_aiohttps.addFilter(_is_ours)
