"""The control socket: HTTP and JSON for the commands that ask or change the running process.

Owns the form of each request and answer; what they mean is for `Orders`, which the process gives. In: a unix socket
that is bound already. Peers must have this process's uid, or be root. Errors are `{"error": "a sentence"}`.

    GET  /api/v1/status                                    as DESIGN section 7
    GET  /api/v1/events[?follow=1]                         {"events": [...]}, or server-sent events
    GET  /api/v1/connections                               {"connections": [...]}
    GET  /api/v1/wait?revision=R&ids=a,b&timeout=30        {"ok": true}; 404, 408, 409: R was rejected, 503: it ends
    GET  /api/v1/diagnose?id=X                             {"steps": [...]}
    POST /api/v1/restart {"ids": [...], "now": false}      {"done": [...]}; 404
    POST /api/v1/pause   {"ids": [...], "seconds": null}
    POST /api/v1/resume  {"ids": [...]}
    POST /api/v1/reload                                    {"valid", "revision", "errors"}
    POST /api/v1/plan    {"files": [{"name", "directory", "text"}], "strict"}    {"actions", "clients", "errors",
                                                                                  "warnings"}
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from aiohttp import web

from reconciler.core.overlay import NoSuchTunnelError
from reconciler.report.event_stream import stream
from reconciler.report.events import Events
from reconciler.report.snapshot import Json, Snapshot, to_json
from reconciler.system.peer_credentials import peer_uid
from reconciler.system.redaction import redact, redact_json

LARGEST = 16 << 20  # bytes of a request: the files of a plan
WAIT = 30.0  # seconds
LONGEST = 10 * 366 * 86_400.0


class WaitFailedError(Exception):
    """What was waited for will not come (`status` 409, 503: the process has ended), or did not come in time (408)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Orders(Protocol):
    """What can be asked of the process. `ids` are globs; NoSuchTunnelError if one of them names nothing."""

    @property
    def events(self) -> Events: ...

    def snapshot(self) -> Snapshot: ...

    def connections(self) -> list[Json]: ...

    def restart(self, ids: Sequence[str], *, now: bool) -> list[str]: ...

    def pause(self, ids: Sequence[str], seconds: float | None) -> list[str]: ...

    def resume(self, ids: Sequence[str]) -> list[str]: ...

    async def reload(self) -> Json: ...

    async def plan(self, files: Sequence[tuple[str, str, str]], *, strict: bool) -> Json:
        """Each file's name, directory and text."""

    async def wait(self, revision: str, ids: Sequence[str], seconds: float) -> None:
        """Return once they are up. Raises NotSoError."""

    async def diagnose(self, tunnel: str) -> Json: ...


def application(orders: Orders, uid: int) -> web.Application:
    """The control socket's application, for peers of that uid."""
    control = _Control(orders, uid)
    app = web.Application(middlewares=[control.answer_errors], client_max_size=LARGEST)
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


class _WrongRequestError(Exception):
    pass


class _Control:
    def __init__(self, orders: Orders, uid: int) -> None:
        self._orders = orders
        self._uid = uid

    @web.middleware
    async def answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if peer_uid(request.get_extra_info("socket")) not in (None, 0, self._uid):
            return _error(403, "this socket is for the user that the process runs as")
        try:
            return await handler(request)
        except _WrongRequestError as wrong:
            return _error(400, str(wrong))
        except NoSuchTunnelError as missing:
            return _error(404, str(missing))
        except WaitFailedError as no:
            return _error(no.status, str(no))
        except web.HTTPException as error:
            return _error(error.status, error.reason)

    # --- asking ------------------------------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.Response:
        return _answer(to_json(self._orders.snapshot()))

    async def events(self, request: web.Request) -> web.StreamResponse:
        match request.query.get("follow", ""):
            case "" | "0":
                _, events = self._orders.events.since(0)
                return _answer({"events": [event.to_json() for event in events]})
            case "1":
                return await stream(request, self._orders.events)
            case _:
                raise _WrongRequestError("follow: expected 0 or 1")

    async def connections(self, request: web.Request) -> web.Response:
        return _answer({"connections": self._orders.connections()})

    async def wait(self, request: web.Request) -> web.Response:
        ids = [one for one in request.query.get("ids", "").split(",") if one]
        seconds = _seconds(request.query.get("timeout", str(WAIT)))
        await self._orders.wait(request.query.get("revision", ""), ids, seconds)
        return _answer({"ok": True})

    async def diagnose(self, request: web.Request) -> web.Response:
        tunnel = request.query.get("id", "")
        if not tunnel:
            raise _WrongRequestError("id: name a tunnel")
        return _answer(await self._orders.diagnose(tunnel))

    # --- changing ----------------------------------------------------------------------------------------------

    async def restart(self, request: web.Request) -> web.Response:
        body = await _body(request)
        return _answer({"done": self._orders.restart(_ids(body), now=body.get("now") is True)})

    async def pause(self, request: web.Request) -> web.Response:
        body = await _body(request)
        seconds = body.get("seconds")
        return _answer({"done": self._orders.pause(_ids(body), _seconds(seconds) if seconds is not None else None)})

    async def resume(self, request: web.Request) -> web.Response:
        return _answer({"done": self._orders.resume(_ids(await _body(request)))})

    async def reload(self, request: web.Request) -> web.Response:
        return _answer(await self._orders.reload())

    async def plan(self, request: web.Request) -> web.Response:
        body = await _body(request)
        files = body.get("files")
        if not isinstance(files, list) or not files:
            raise _WrongRequestError("files: a list of {name, directory, text}")
        return _answer(await self._orders.plan([_file(one) for one in files], strict=bool(body.get("strict"))))


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": redact(message)}, status=status)


def _answer(content: Json) -> web.Response:
    return web.json_response(redact_json(content))


async def _body(request: web.Request) -> Mapping[str, object]:
    try:
        body = json.loads(await request.read())  # not request.json(): that decodes by whatever charset is claimed
    except web.RequestPayloadError:
        raise _WrongRequestError("the body is not encoded as its headers say") from None
    except (ValueError, RecursionError):
        raise _WrongRequestError("the body is not JSON") from None
    if not isinstance(body, dict):
        raise _WrongRequestError("the body is not a JSON object")
    return body


def _ids(body: Mapping[str, object]) -> list[str]:
    ids = body.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
        raise _WrongRequestError("ids: name tunnels or targets; * is all of them")
    return ids


def _file(one: object) -> tuple[str, str, str]:
    if isinstance(one, dict):
        name, directory, text = one.get("name"), one.get("directory"), one.get("text")
        if isinstance(name, str) and isinstance(directory, str) and isinstance(text, str):
            return name, directory, text
    raise _WrongRequestError("files: each has a name, a directory and a text")


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= LONGEST:
        raise _WrongRequestError(f"{value!r} is no number of seconds")
    return seconds
