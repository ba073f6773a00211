"""The control socket: HTTP and JSON for the commands that query or change the running process.

Owns the format of each request and response. A `CommandHandler` carries the commands out. Input: a bound unix socket.
A peer must have the uid of this process, or be root. Errors are `{"error": "a sentence"}`. The docstring of each
handler describes its request and response; docs/reference/endpoints.md is generated from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from aiohttp import web

from reconciler.core.overlay import NoSuchTunnelError
from reconciler.report.event_stream import stream
from reconciler.report.events import Event, Events
from reconciler.report.snapshot import Json, Snapshot, to_json
from reconciler.system.peer_credentials import peer_uid
from reconciler.system.redaction import redact, redact_json

BODY_MAX = 16 << 20  # bytes of a request: `plan` sends files
WAIT = 30.0  # seconds that `wait` takes by default
SECONDS_MAX = 10 * 366 * 86_400.0  # ten years


class WaitFailedError(Exception):
    """`wait` failed: `status` is 408 if it timed out, 503 if the process has ended.

    409: the revision was rejected, or a retry helps none of the missing tunnels.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CommandHandler(Protocol):
    """The commands that the process carries out. `ids` are globs; one without a match raises NoSuchTunnelError."""

    @property
    def events(self) -> Events[Event]: ...

    def snapshot(self) -> Snapshot: ...

    def connections(self) -> list[Json]: ...

    def restart(self, ids: Sequence[str], *, now: bool) -> list[str]: ...

    def pause(self, ids: Sequence[str], seconds: float | None) -> list[str]: ...

    def resume(self, ids: Sequence[str]) -> list[str]: ...

    async def reload(self) -> Json: ...

    async def plan(self, files: Sequence[tuple[str, str, str]], *, strict: bool) -> Json:
        """Plan these files, each given by name, directory and text."""

    async def wait(self, revision: str, ids: Sequence[str], seconds: float) -> None:
        """Return once the tunnels are up. Raises WaitFailedError."""

    async def diagnose(self, tunnel: str) -> Json: ...


def application(handler: CommandHandler, uid: int) -> web.Application:
    """Return the application of the control socket, for peers with that uid."""
    control = _Control(handler, uid)
    app = web.Application(middlewares=[control.answer_errors], client_max_size=BODY_MAX)
    app.router.add_get("/api/v1/status", control.status)
    app.router.add_get("/api/v1/events", control.events)
    app.router.add_get("/api/v1/connections", control.connections)
    app.router.add_get("/api/v1/wait", control.wait)
    app.router.add_get("/api/v1/diagnose", control.diagnose)
    app.router.add_post("/api/v1/restart", control.restart)
    app.router.add_post("/api/v1/pause", control.pause)
    app.router.add_post("/api/v1/resume", control.resume)
    app.router.add_post("/api/v1/reload", control.reload)
    app.router.add_post("/api/v1/plan", control.plan)
    return app


class _BadRequestError(Exception):
    pass


class _Control:
    def __init__(self, handler: CommandHandler, uid: int) -> None:
        self._handler = handler
        self._uid = uid

    @web.middleware
    async def answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if peer_uid(request.get_extra_info("socket")) not in (None, 0, self._uid):
            return _error(
                403, "permission denied: run the command as the user of the `tunnels run` process, or as root"
            )
        try:
            return await handler(request)
        except _BadRequestError as error:
            return _error(400, str(error))
        except NoSuchTunnelError as error:
            return _error(404, str(error))
        except WaitFailedError as error:
            return _error(error.status, str(error))
        except web.HTTPException as error:
            return _error(error.status, error.reason)

    # --- queries -----------------------------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.Response:
        """The status of everything, as JSON."""
        return _respond(to_json(self._handler.snapshot()))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The events that are kept: `{"events": [...]}`. With `?follow=1`, server-sent events."""
        match request.query.get("follow", ""):
            case "" | "0":
                _, events = self._handler.events.since(0)
                return _respond({"events": [event.to_json() for event in events]})
            case "1":
                return await stream(request, self._handler.events)
            case _:
                raise _BadRequestError("follow: expected 0 or 1")

    async def connections(self, request: web.Request) -> web.Response:
        """The live client connections: `{"connections": [...]}`."""
        return _respond({"connections": self._handler.connections()})

    async def wait(self, request: web.Request) -> web.Response:
        """`{"ok": true}` once the tunnels `?ids=a,b` are up, and `?revision=R` is loaded and converged.

        408 after `?timeout=30` seconds. 404 for an unknown tunnel, 409 if no retry helps, 503 if the process has ended.
        """
        ids = [one for one in request.query.get("ids", "").split(",") if one]
        seconds = _seconds(request.query.get("timeout", str(WAIT)))
        await self._handler.wait(request.query.get("revision", ""), ids, seconds)
        return _respond({"ok": True})

    async def diagnose(self, request: web.Request) -> web.Response:
        """The tests of the tunnel `?id=X`, up to the first that fails: `{"steps": [...]}`."""
        tunnel = request.query.get("id", "")
        if not tunnel:
            raise _BadRequestError("id: expected a tunnel")
        return _respond(await self._handler.diagnose(tunnel))

    # --- changes -----------------------------------------------------------------------------------------------

    async def restart(self, request: web.Request) -> web.Response:
        """`{"ids": [...], "now": false}`: replace the SSH connections of these tunnels; `now` cuts their clients.

        The answer to a change of tunnels is `{"done": [...]}` with their ids, or 404 for an unknown tunnel.
        """
        body = await _body(request)
        return _respond({"done": self._handler.restart(_ids(body), now=body.get("now") is True)})

    async def pause(self, request: web.Request) -> web.Response:
        """`{"ids": [...], "seconds": null}`: turn these tunnels off, for a time or until `resume`."""
        body = await _body(request)
        seconds = body.get("seconds")
        return _respond({"done": self._handler.pause(_ids(body), _seconds(seconds) if seconds is not None else None)})

    async def resume(self, request: web.Request) -> web.Response:
        """`{"ids": [...]}`: turn these tunnels on."""
        return _respond({"done": self._handler.resume(_ids(await _body(request)))})

    async def reload(self, request: web.Request) -> web.Response:
        """Read the files again: `{"valid", "revision", "errors"}`."""
        return _respond(await self._handler.reload())

    async def plan(self, request: web.Request) -> web.Response:
        """`{"files": [{"name", "directory", "text"}], "strict": false}`: what these files would change.

        The answer is `{"actions", "clients", "errors", "warnings"}`.
        """
        body = await _body(request)
        files = body.get("files")
        if not isinstance(files, list) or not files:
            raise _BadRequestError("files: expected a list of {name, directory, text}")
        return _respond(await self._handler.plan([_file(one) for one in files], strict=bool(body.get("strict"))))


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": redact(message)}, status=status)


def _respond(content: Json) -> web.Response:
    return web.json_response(redact_json(content))


async def _body(request: web.Request) -> Mapping[str, object]:
    try:
        # Not request.json(): it decodes with the charset that the client claims.
        body = json.loads(await request.read())
    except web.RequestPayloadError:
        raise _BadRequestError("the request body does not have the encoding that its headers name") from None
    except (ValueError, RecursionError):
        raise _BadRequestError("the request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise _BadRequestError("the request body is not a JSON object")
    return body


def _ids(body: Mapping[str, object]) -> list[str]:
    ids = body.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
        raise _BadRequestError("ids: expected a list of tunnels or targets; * matches all")
    return ids


def _file(one: object) -> tuple[str, str, str]:
    if isinstance(one, dict):
        name, directory, text = one.get("name"), one.get("directory"), one.get("text")
        if isinstance(name, str) and isinstance(directory, str) and isinstance(text, str):
            return name, directory, text
    raise _BadRequestError("files: expected name, directory and text for each file")


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= SECONDS_MAX:
        raise _BadRequestError(f"expected a number of seconds from 0 to {SECONDS_MAX:.0f}, got {value!r}")
    return seconds
