"""The program with its HTTP endpoints and control socket, and a client for both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from reconciler.runtime.endpoints import Endpoints, Served, serving
from support.tunnels import Running, running
from support.wait import eventually


class Client:
    """A client of the HTTP endpoint or the control socket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def text(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(path, headers=headers) as response:
            return response.status, await response.text()

    async def get(self, path: str, status: int = 200, **query: str) -> Any:
        async with self.session.get(path, params=query) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def post(self, path: str, status: int = 200, **body: object) -> Any:
        async with self.session.post(path, json=body) as response:
            assert response.status == status, await response.text()
            return await response.json()


class Whole:
    """The running program and clients of its endpoints."""

    def __init__(self, tunnels: Running, served: Served, http: Client, control: Client) -> None:
        self.tunnels = tunnels
        self.served = served
        self.http = http
        self.control = control


@contextlib.asynccontextmanager
async def client_of(*, address: str = "", path: str = "") -> AsyncIterator[Client]:
    """Yield a client of an address or a unix socket."""
    connector = aiohttp.UnixConnector(path) if path else None
    async with aiohttp.ClientSession(f"http://{address or 'localhost'}", connector=connector) as session:
        yield Client(session)


@contextlib.asynccontextmanager
async def whole(directory: Path, text: str, **endpoints: Any) -> AsyncIterator[Whole]:
    """Run the program as `running` does, with its endpoints. Yields when the file is loaded."""
    endpoints_of = Endpoints(**{"listen": "127.0.0.1:0", "control": str(directory / "c.sock"), **endpoints})
    async with running(directory, text) as tunnels, serving(tunnels.app, endpoints_of) as served:
        async with client_of(address=served.listen) as http, client_of(path=served.control) as control:
            await eventually(lambda: tunnels.app.loaded is not None, within=30)
            yield Whole(tunnels, served, http, control)
