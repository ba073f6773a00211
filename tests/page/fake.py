"""A stand-in for the program's HTTP side that serves the real page with made-up status. To look at the page by hand:

python tests/page/fake.py [all_up|some_failing|hostile|thousand] [PORT]
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1]))

from page import world as worlds
from page.details import Json
from page.world import World
from support.wait import free_port

PAGE = Path(__file__).parents[2] / "reconciler" / "report" / "page"
CSP = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
HEADERS = {"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class FakeServer:
    """`async with FakeServer(world) as server`: change `server.world`, `tell` an event, `vanish`, `come_back`."""

    def __init__(self, world: World, port: int = 0) -> None:
        self.world = world
        self.port = port
        self.asked = 0
        self.status_code = 200
        self.listeners: set[asyncio.Queue[Json | None]] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def tell(self, event: Json) -> None:
        for listener in self.listeners:
            listener.put_nowait(event)

    async def come_back(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._index)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/events", self._events)
        app.router.add_get("/page/{name}", self._file)
        app.on_shutdown.append(self._hang_up)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        # Not an ephemeral port: it must still be free for `come_back`.
        self.port = self.port or free_port()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()

    async def vanish(self) -> None:
        """Stop serving, as if the process had died: the port refuses connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.vanish()

    async def _hang_up(self, _app: web.Application) -> None:
        for listener in self.listeners:
            listener.put_nowait(None)

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html", headers=HEADERS)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = PAGE / Path(request.match_info["name"]).name
        return web.FileResponse(path, headers=HEADERS) if path.is_file() else web.Response(status=404)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        content = self.world.status()
        if (tunnel_id := request.query.get("tunnel")) is not None:
            content["detail"] = self.world.detail(tunnel_id)
        return web.json_response(content, status=self.status_code, headers=HEADERS)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[Json | None] = asyncio.Queue()
        for event in self.world.events:
            queue.put_nowait(event)
        self.listeners.add(queue)
        try:
            while (next_one := await queue.get()) is not None:
                await response.write(f"data: {json.dumps(next_one)}\n\n".encode())
        except ConnectionResetError:
            pass
        finally:
            self.listeners.discard(queue)
        return response


async def _serve(case: str, port: int) -> None:
    world: World = getattr(worlds, case)()
    async with FakeServer(world, port) as server:
        print(server.url)
        dice = random.Random()
        while True:
            await asyncio.sleep(2)
            for name, (sent, received) in list(world.rates.items()):
                world.rates[name] = (sent * dice.uniform(0.9999, 1.0002), received * dice.uniform(0.9999, 1.0002))


if __name__ == "__main__":
    _case, _port = [*sys.argv[1:], *["some_failing", "9722"][len(sys.argv) - 1 :]][:2]
    asyncio.run(_serve(_case, int(_port)))
