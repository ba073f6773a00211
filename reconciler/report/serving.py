"""An HTTP server on sockets that are bound already, and its bounds.

Owns the connections. aiohttp has no limit of its own for a client that connects and says nothing, or reads nothing:
here a connection that is not being answered for `PATIENCE` seconds is ended, and there are at most `limit` of them. One
more takes the place of another, so that whoever holds them all cannot keep a probe out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web_protocol import RequestHandler

from reconciler.report.stream import READERS, Readers

PATIENCE = 15.0
SWEEP = 1.0
LIMIT = 128

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
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None
        app[READERS] = Readers()
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
            self._listeners.append(await loop.create_server(self._accept, sock=sock))
        self._sweeper = loop.create_task(self._sweep(), name="http sweeper")

    async def stop(self) -> None:
        """Close everything; answers under way get a second."""
        for listener in self._listeners:
            listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._runner.cleanup()

    @property
    def connections(self) -> list[RequestHandler]:
        """Those that are open."""
        return list(self._open)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        return _Connection(
            self._came,
            self._left,
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._patience,
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
            for connection in [one for one, since in self._idle_since.items() if now - since >= self._patience]:
                self._end(connection)


class _Connection(RequestHandler):
    """aiohttp's, which tells when it comes and goes, and answers what is not HTTP without naming its version."""

    __slots__ = ("_came", "_left")

    def __init__(
        self, came: Callable[[_Connection], None], left: Callable[[_Connection], None], server: web.Server, **more: Any
    ) -> None:
        super().__init__(server, **more)
        self._came = came
        self._left = left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._came(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._left(self)

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
    if not isinstance(error, BadHttpMessage | web.RequestPayloadError):
        return True
    said = error.message if isinstance(error, BadHttpMessage) else type(error).__name__
    # Behind its colon stands what was sent: a header may hold a password.
    log.debug("%s: %s", record.getMessage(), said.partition(":")[0][:80])
    return False


_aiohttps.addFilter(_is_ours)
