"""The endpoints around the running process: the HTTP ones for machines and browsers, the control socket for commands.

Owns their sockets. In: the app, and what the command line says about endpoints. Out: both served while the block runs.
An address that is taken is a warning where it is only the default, and an error where somebody asked for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from reconciler.app import App
from reconciler.core.spec import LocalTcp, LocalUnix
from reconciler.orders import Orders
from reconciler.report import control, http
from reconciler.report.places import place_to_listen
from reconciler.report.serving import Serving
from reconciler.ssh.listen import Bound, bind

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:9722"
NONE = "none"


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
    where = endpoints.listen or DEFAULT_LISTEN
    try:
        bound = await bind(_address(where))
    except OSError as error:
        _cannot(f"cannot listen on {where}", error, "--listen", given=endpoints.listen is not None)
        return ""
    rules = http.Rules(endpoints.expose_status, endpoints.allowed_hosts, endpoints.metric_labels)
    await _serve(Serving(http.application(app.snapshot, app.pulse, app.events, rules)), bound, stack)
    log.info("metrics, health and status page on http://%s/", bound.address)
    return bound.address


async def _control(app: App, endpoints: Endpoints, stack: contextlib.AsyncExitStack) -> str:
    if endpoints.control == NONE:
        return ""
    try:
        path = endpoints.control or place_to_listen(app.config.environ)
        bound = await bind(LocalUnix(path, 0o600, ""))
    except OSError as error:
        where = f"control socket {error.filename or endpoints.control or ''}".rstrip()
        _cannot(f"cannot listen on the {where}", error, "--control", given=endpoints.control is not None)
        return ""
    await _serve(Serving(control.application(Orders(app), os.getuid())), bound, stack)
    return path


async def _serve(server: Serving, bound: Bound, stack: contextlib.AsyncExitStack) -> None:
    stack.callback(bound.close)
    stack.push_async_callback(server.stop)
    await server.start(bound.sockets)


def _cannot(what: str, error: OSError, option: str, *, given: bool) -> None:
    message = f"{what}: {error.strerror or error}"
    if given:
        raise EndpointError(message) from error
    log.warning("%s; it goes on without. %s names another place", message, option)


def _address(text: str) -> LocalTcp:
    """`HOST:PORT`, `[::1]:PORT` or a port of loopback. Raises EndpointError."""
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise EndpointError(f"{text!r} is no address to listen on; one looks like {DEFAULT_LISTEN}")
    host = host.removeprefix("[").removesuffix("]") if colon else "127.0.0.1"
    return LocalTcp(host or "*", int(port), int(port))
