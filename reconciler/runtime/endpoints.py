"""The endpoints around the running process: the HTTP ones for machines and browsers, the control socket for commands.

Owns their sockets. In: the app, and what the command line says about endpoints. Out: both served while the block runs.
An address that is taken is an error where somebody asked for it. Where it is only the default it is a warning, and
asked for again and again: whoever has it may be the process that this one is to replace, and which still drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.spec import LocalTcp, LocalUnix
from reconciler.report import control, http_routes
from reconciler.report.http_server import Serving
from reconciler.report.socket_paths import place_to_listen
from reconciler.runtime.app import App
from reconciler.runtime.commands import Orders
from reconciler.system.bind import Bound, bind
from reconciler.system.peer_credentials import peer_pid
from reconciler.system.port_owner import owner_of_port

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:9722"
NONE = "none"
AGAIN_AFTER = 2.0  # seconds between two tries to have an address that is taken


class EndpointError(Exception):
    """An endpoint that was asked for cannot be served; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`listen` and `control`: None is the default place, "none" not at all."""

    listen: str | None = None
    control: str | None = None
    metric_labels: tuple[str, ...] = ()
    expose_status: bool = False
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """Where they are, "" for those that are not."""

    listen: str
    control: str


@contextlib.asynccontextmanager
async def serving(app: App, endpoints: Endpoints) -> AsyncIterator[Served]:
    """Serve until the block is left. Raises EndpointError."""
    async with contextlib.AsyncExitStack() as stack:
        listen = await _http(app, endpoints, stack)
        path = await _control(app, endpoints, stack)
        yield Served(listen, path)


async def _http(app: App, endpoints: Endpoints, stack: contextlib.AsyncExitStack) -> str:
    if endpoints.listen == NONE:
        return ""
    where, given = endpoints.listen or DEFAULT_LISTEN, endpoints.listen is not None
    address = _address(where)
    rules = http_routes.Rules(endpoints.expose_status, endpoints.allowed_hosts, endpoints.metric_labels)

    async def serve() -> str:
        bound = await bind(address)
        application = http_routes.application(app.snapshot, app.pulse, app.events, rules)
        await _serve(Serving(application, limit=app.budget.endpoint_connections), bound, stack)
        log.info("metrics, health and status page on http://%s/", bound.address)
        return bound.address

    try:
        return await serve()
    except ValueError as error:  # a name that DNS cannot carry
        raise EndpointError(
            f"cannot listen on {where}: it is not an address: expected one like {DEFAULT_LISTEN}"
        ) from error
    except OSError as error:
        without = "metrics, health and status page are not served. --listen names another place"
        _cannot(f"cannot listen on {where}", error, owner_of_port(where) or "", without, given=given)
        _when_free(error, serve, stack)
        return ""


async def _control(app: App, endpoints: Endpoints, stack: contextlib.AsyncExitStack) -> str:
    if endpoints.control == NONE:
        return ""
    path, given = endpoints.control or "", endpoints.control is not None

    async def serve() -> str:
        bound = await bind(LocalUnix(path, 0o600, ""))
        application = control.application(Orders(app), os.getuid())
        await _serve(Serving(application, limit=app.budget.endpoint_connections), bound, stack)
        log.info("commands are heard at %s", path)
        return path

    try:
        path = path or place_to_listen(app.config.environ)
        return await serve()
    except ValueError as error:  # no file can be there, such as at /
        raise EndpointError(f"cannot listen on the control socket {path}: expected the path of a file") from error
    except OSError as error:
        without = "status, wait and the other commands do not reach this process. --control names another place"
        holder = _listener_of(path)
        if holder:
            without = "status, wait and the other commands speak to that one. --control names another place"
        _cannot(f"cannot listen on the control socket {path}".rstrip(), error, holder, without, given=given)
        _when_free(error, serve, stack)
        return ""


async def _serve(server: Serving, bound: Bound, stack: contextlib.AsyncExitStack) -> None:
    stack.callback(bound.close)
    stack.push_async_callback(server.stop)
    await server.start(bound.sockets)


def _cannot(what: str, error: OSError, holder: str, without: str, *, given: bool) -> None:
    by = f" by {holder}" if holder and error.errno == errno.EADDRINUSE else ""
    message = f"{what}: {error.strerror or error}{by}"
    if given:
        raise EndpointError(message) from error
    log.warning("%s; %s", message, without)


def _when_free(error: OSError, serve: Callable[[], Awaitable[str]], stack: contextlib.AsyncExitStack) -> None:
    """Serve as soon as whoever has the address lets it go."""

    async def wait() -> None:
        while True:
            await asyncio.sleep(AGAIN_AFTER)
            with contextlib.suppress(OSError):
                await serve()
                return

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    if error.errno == errno.EADDRINUSE:
        task = asyncio.create_task(wait(), name="endpoint")
        stack.push_async_callback(stop)


def _listener_of(path: str) -> str:
    """`tunnels (pid 123)` for who listens on a unix socket, "" where that cannot be known."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as ours:
        ours.setblocking(False)
        ours.connect(path)
        pid = peer_pid(ours)
        return f"{Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()} (pid {pid})"
    return ""


def _address(text: str) -> LocalTcp:
    """`HOST:PORT`, `[::1]:PORT` or a port of loopback. Raises EndpointError."""
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise EndpointError(f"{text!r} is no address to listen on; one looks like {DEFAULT_LISTEN}")
    host = host.removeprefix("[").removesuffix("]") if colon else "127.0.0.1"
    return LocalTcp(host or "*", int(port), int(port))
