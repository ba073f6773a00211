"""An HTTP server on sockets that are bound already, and its bounds.

Owns the connections. aiohttp has no limit of its own for a client that connects and says nothing, or reads nothing:
here a connection that is not being answered for `PATIENCE` seconds is ended, and there are at most `limit` of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

PATIENCE = 15.0
SWEEP = 1.0
LIMIT = 128

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Serving:
    """See the module. Made with an application that is not running yet; it lives until `stop`."""

    def __init__(self, app: web.Application, *, limit: int = LIMIT, patience: float = PATIENCE) -> None:
        self._limit = limit
        self._patience = patience
        self._idle_since: dict[object, float] = {}  # by connection; not those that are being answered
        self._answering: set[object] = set()
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None
        app.middlewares.insert(0, self._mark)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # who has left is not answered: followers of events end at once
            keepalive_timeout=patience,
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
        server = self._runner.server
        return server.connections if server is not None else []

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        return server() if len(self.connections) < self._limit else _TurnedAway()

    @web.middleware
    async def _mark(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        connection = request.protocol
        self._answering.add(connection)
        try:
            return await handler(request)
        finally:
            self._answering.discard(connection)
            self._idle_since[connection] = asyncio.get_running_loop().time()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP, self._patience))
            now = loop.time()
            # A new connection's time begins when it is first seen here.
            self._idle_since = {
                one: self._idle_since.get(one, now) for one in self.connections if one not in self._answering
            }
            for connection in self.connections:
                since = self._idle_since.get(connection)
                if since is not None and now - since >= self._patience and connection.transport is not None:
                    connection.transport.abort()


class _TurnedAway(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
