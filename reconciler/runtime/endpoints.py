"""Serves the endpoints of the running process: HTTP for machines and browsers, the control socket for commands.

Owns their sockets. Input: the app and the endpoint options of the command line. Output: both served while the block
runs. A taken address is an error if the command line names it. A taken default address is a warning and is retried: it
may belong to the process that this one replaces, which still drains its clients.
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
from reconciler.report.socket_paths import how_to_make_a_place, place_to_listen
from reconciler.runtime.app import App
from reconciler.runtime.commands import Commands
from reconciler.system.bind import Bound, bind
from reconciler.system.peer_credentials import peer_pid
from reconciler.system.port_owner import owner_of_port

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:9722"
NONE = "none"
RETRY_AFTER = 2.0  # seconds between two tries to bind a taken address


class EndpointError(Exception):
    """An endpoint that the command line names cannot be served. The message says why."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoint options. `listen`, `control`: None is the default address, "none" disables the endpoint."""

    listen: str | None = None
    control: str | None = None
    metric_labels: tuple[str, ...] = ()
    expose_status: bool = False
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """The addresses of the endpoints that are served, "" for the others."""

    listen: str
    control: str


@contextlib.asynccontextmanager
async def serving(app: App, endpoints: Endpoints) -> AsyncIterator[Served]:
    """Serve both endpoints until the block is left. Raises EndpointError."""
    async with contextlib.AsyncExitStack() as stack:
        listen = await _http(app, endpoints, stack)
        path = await _control(app, endpoints, stack)
        yield Served(listen, path)


async def _http(app: App, endpoints: Endpoints, stack: contextlib.AsyncExitStack) -> str:
    if endpoints.listen == NONE:
        return ""
    where, is_explicit = endpoints.listen or DEFAULT_LISTEN, endpoints.listen is not None
    address = _address(where)
    rules = http_routes.Rules(endpoints.expose_status, endpoints.allowed_hosts, endpoints.metric_labels)

    async def serve() -> str:
        bound = await bind(address)
        application = http_routes.application(app.snapshot, app.liveness, app.detail, app.events, rules)
        await _serve(Serving(application, limit=app.budget.endpoint_connections), bound, stack)
        log.info("metrics, health and status page on http://%s/", bound.address)
        return bound.address

    try:
        return await serve()
    except ValueError as error:  # a name that DNS cannot encode
        raise EndpointError(f"cannot listen on {where}: expected an address such as {DEFAULT_LISTEN}") from error
    except OSError as error:
        _report_unavailable(
            f"cannot listen on {where}",
            error,
            owner_of_port(where) or "",
            consequence="metrics, health and status page are not served",
            fix="set another address with --listen",
            is_explicit=is_explicit,
        )
        _serve_when_free(error, serve, stack)
        return ""


async def _control(app: App, endpoints: Endpoints, stack: contextlib.AsyncExitStack) -> str:
    if endpoints.control == NONE:
        return ""
    path, is_explicit = endpoints.control or "", endpoints.control is not None

    async def serve() -> str:
        bound = await bind(LocalUnix(path, 0o600, ""))
        application = control.application(Commands(app), os.getuid())
        await _serve(Serving(application, limit=app.budget.endpoint_connections), bound, stack)
        log.info("control socket at %s", path)
        return path

    try:
        path = path or place_to_listen(app.config.environ)
        return await serve()
    except ValueError as error:  # no file can have this path, such as /
        raise EndpointError(f"cannot listen on the control socket {path}: expected a file path") from error
    except OSError as error:
        owner = _listener_of(path)
        reached = "reach that process" if owner else "do not reach this process"
        other_path = "set another path with --control"
        _report_unavailable(
            f"cannot listen on the control socket {path}".rstrip(),
            error,
            owner,
            consequence=f"status, wait and the other commands {reached}",
            fix=other_path if path else f"{how_to_make_a_place()}, or {other_path}",
            is_explicit=is_explicit,
        )
        _serve_when_free(error, serve, stack)
        return ""


async def _serve(server: Serving, bound: Bound, stack: contextlib.AsyncExitStack) -> None:
    stack.callback(bound.close)
    stack.push_async_callback(server.stop)
    await server.start(bound.sockets)


def _report_unavailable(
    what: str, error: OSError, owner: str, *, consequence: str, fix: str, is_explicit: bool
) -> None:
    by = f" by {owner}" if owner and error.errno == errno.EADDRINUSE else ""
    message = f"{what}: {error.strerror or error}{by}"
    if is_explicit:
        raise EndpointError(f"{message}; {fix}") from error
    log.warning("%s; %s: %s", message, consequence, fix)


def _serve_when_free(error: OSError, serve: Callable[[], Awaitable[str]], stack: contextlib.AsyncExitStack) -> None:
    """Serve as soon as the address is free."""

    async def retry() -> None:
        while True:
            await asyncio.sleep(RETRY_AFTER)
            with contextlib.suppress(OSError):
                await serve()
                return

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    if error.errno == errno.EADDRINUSE:
        task = asyncio.create_task(retry(), name="endpoint retry")
        stack.push_async_callback(stop)


def _listener_of(path: str) -> str:
    """Return the process that listens on a unix socket as `tunnels (pid 123)`, "" if unknown."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as ours:
        ours.setblocking(False)
        ours.connect(path)
        pid = peer_pid(ours)
        return f"{Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()} (pid {pid})"
    return ""


def _address(text: str) -> LocalTcp:
    """Parse `HOST:PORT`, `[::1]:PORT` or a port on loopback. Raises EndpointError."""
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise EndpointError(f"cannot listen on {text!r}: expected an address such as {DEFAULT_LISTEN}")
    host = host.removeprefix("[").removesuffix("]") if colon else "127.0.0.1"
    return LocalTcp(host or "*", int(port), int(port))
