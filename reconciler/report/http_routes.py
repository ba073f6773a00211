"""The HTTP endpoints: metrics, liveness, readiness, the status page and its data. Read only (docs/contract.md).

Input: functions that return a snapshot. Output: an aiohttp application. Access:

    /metrics, /livez, /readyz         any client that can connect; also with /readyz?revision=R
    /readyz/TARGET/TUNNEL             any client, if the Host header is an address, localhost or an allowed name:
                                      otherwise a web page could read it through a browser, with a name that resolves
                                      to 127.0.0.1 (DNS rebinding)
    /, /page/..., /api/v1/...         with such a Host header, and through loopback or with --expose-status
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from reconciler.core.addresses import is_loopback
from reconciler.report.event_stream import stream
from reconciler.report.events import Event, Events
from reconciler.report.metrics import Metrics
from reconciler.report.snapshot import Liveness, Snapshot, TunnelSnapshot, sentence, to_json
from reconciler.report.tunnel_detail import TunnelDetail
from reconciler.system.redaction import redact, redact_json

PAGE = Path(__file__).parent / "page"
PASS_AGE_MAX = 60.0  # seconds since the last pass of the reconcile loop, which runs one every few seconds
LAG_MAX = 10.0  # seconds of event loop lag

_REVISION = re.compile("sha256:[0-9a-f]{64}")
_SHOWN = 40  # characters of a parameter's name

OPEN_PATHS = ("/metrics", "/livez", "/readyz")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "tunnels",  # do not reveal the versions of Python and aiohttp
}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".woff2": "font/woff2",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Rules:
    """Options of the command line. `metric_labels`: the tunnel labels that metrics may show."""

    expose_status: bool = False
    allowed_hosts: tuple[str, ...] = ()
    metric_labels: tuple[str, ...] = ()


def application(
    snapshot: Callable[[], Snapshot],
    liveness: Callable[[], Liveness],
    detail: Callable[[str], TunnelDetail | None],
    events: Events[Event],
    rules: Rules,
) -> web.Application:
    """Return the HTTP application. `detail` returns the detail of the tunnel with that id."""
    http = _Http(snapshot, liveness, detail, events, rules)
    app = web.Application(middlewares=[http.guard])
    app.on_response_prepare.append(_add_headers)
    app.router.add_get("/metrics", http.metrics)
    app.router.add_get("/livez", http.livez)
    app.router.add_get("/readyz", http.readyz)
    app.router.add_get("/readyz/{target}/{tunnel}", http.ready_tunnel)
    app.router.add_get("/", http.page)
    app.router.add_get("/page/{file}", http.page)
    app.router.add_get("/api/v1/status", http.status)
    app.router.add_get("/api/v1/events", http.events)
    return app


class _Http:
    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        liveness: Callable[[], Liveness],
        detail: Callable[[str], TunnelDetail | None],
        events: Events[Event],
        rules: Rules,
    ) -> None:
        self._snapshot = snapshot
        self._liveness = liveness
        self._detail = detail
        self._events = events
        self._rules = rules
        self._metrics = Metrics(rules.metric_labels)
        self._files = _page_files()

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Enforce the access rules of this module."""
        try:
            refusal = self._refusal(request)
            return refusal if refusal is not None else await handler(request)
        except web.HTTPException as error:
            return _text(error.status, error.reason)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.method not in ("GET", "HEAD"):
            refusal = _text(405, "read only: use the control socket for changes")
            refusal.headers["Allow"] = "GET, HEAD"
            return refusal
        if request.path in OPEN_PATHS:
            return None
        is_probe = request.path.startswith("/readyz/")
        if not is_probe and not self._rules.expose_status and not _is_local(request):
            return _text(403, "available on loopback only: start with --expose-status to allow any client")
        if not is_host_allowed(request.headers.get("Host", ""), self._rules.allowed_hosts):
            return _text(403, "host name not allowed: use an IP address, or add the name to --allowed-hosts")
        return None

    # --- for machines ------------------------------------------------------------------------------------------

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics, as Prometheus text or OpenMetrics by the Accept header."""
        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = await self._metrics.render(self._snapshot(), accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def livez(self, request: web.Request) -> web.Response:
        """200 while the event loop and the reconcile loop run, else 503 with the cause: restart the process."""
        failure = liveness_failure(self._liveness())
        return _text(503 if failure else 200, failure or "ok")

    async def readyz(self, request: web.Request) -> web.Response:
        """200 when every critical tunnel is up (`off` and `standby` are not counted), else 503.

        Each line of the 503 is one cause. With `?revision=R`, 200 only if R is also loaded and converged, and the
        answer is JSON: `{"ready", "revision", "loaded", "rejected", "converged", "missing"}`.
        """
        wrong, revision = _revision(request)
        if wrong:
            return _text(400, wrong)
        snapshot = self._snapshot()
        return _ready(snapshot, snapshot.troubles(critical=True), revision)

    async def ready_tunnel(self, request: web.Request) -> web.Response:
        """As `/readyz`, for one tunnel, critical or not. 404 if there is no such tunnel."""
        wrong, revision = _revision(request)
        if wrong:
            return _text(400, wrong)
        tunnel = f"{request.match_info['target']}/{request.match_info['tunnel']}"
        snapshot = self._snapshot()
        troubles = [one for one in snapshot.troubles(critical=False) if one.id == tunnel]
        if any(one.id == tunnel for one in snapshot.tunnels):
            return _ready(snapshot, troubles, revision)
        if revision and snapshot.config.revision != revision:
            return _ready(snapshot, [], revision)  # the revision may add the tunnel
        return _text(404, "no such tunnel")

    # --- for people --------------------------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.Response:
        """The status of everything, as JSON. With `?tunnel=ID`, also `detail`."""
        content = to_json(self._snapshot())
        if (tunnel_id := request.query.get("tunnel")) is not None:
            detail = self._detail(tunnel_id)
            content["detail"] = detail.to_json() if detail is not None else None
        return web.json_response(redact_json(content))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: first those that are kept, then each new one.

        With the header Last-Event-ID, the first are those after it. 503 beyond 32 readers.
        """
        return await stream(request, self._events)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The status page and its files."""
        name = request.match_info.get("file", "index.html")
        if name not in self._files:
            return _text(404, "no such page")
        content, content_type = self._files[name]
        return web.Response(body=content, headers={"Content-Type": f"{content_type}; charset=utf-8"})


def _page_files() -> dict[str, tuple[bytes, str]]:
    """Return the content and type of each file of the page, by name.

    They are read once: no request can name a path.
    """
    return {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in PAGE.iterdir() if path.suffix in _TYPES}


def liveness_failure(liveness: Liveness) -> str:
    """Return why the process must be restarted, "" if it works."""
    if liveness.last_pass_age is not None and liveness.last_pass_age > PASS_AGE_MAX:
        return f"the last pass of the reconcile loop was {liveness.last_pass_age:.0f} s ago"
    if liveness.second_max_lag > LAG_MAX:  # a single large lag: the process was stopped and continues
        return f"the event loop lags by {liveness.second_max_lag:.0f} s"
    return ""


def is_host_allowed(header: str, allowed: tuple[str, ...]) -> bool:
    """Return True if a Host header names an address, localhost or an allowed name, with any port."""
    host = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    host = host.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host in (name.lower() for name in allowed)
    return True


def _revision(request: web.Request) -> tuple[str, str]:
    """Return why the query is wrong, "" if it is right; and the revision in it, "" for none."""
    for name in request.query:
        if name != "revision":
            return f"unknown parameter {json.dumps(name[:_SHOWN])}: expected revision", ""
    given = request.query.getall("revision", [])
    if not given:
        return "", ""
    if len(given) > 1 or not _REVISION.fullmatch(given[0]):
        return "revision: expected one as printed by `check --output json`, sha256: and 64 hexadecimal digits", ""
    return "", given[0]


def _ready(snapshot: Snapshot, troubles: list[TunnelSnapshot], revision: str) -> web.Response:
    """Return 200 if nothing is missing, else 503 with the reasons: as text, or as JSON if a revision is given."""
    missing = _missing(snapshot, troubles, revision)
    status = 503 if missing else 200
    if not revision:
        return _text(status, "\n".join(missing) or "ok")
    content = {
        "ready": not missing,
        "revision": revision,
        "loaded": snapshot.config.revision or None,
        "rejected": _is_rejected(snapshot, revision),
        "converged": snapshot.config.converged,
        "missing": missing,
    }
    return web.json_response(redact_json(content), status=status)


def _missing(snapshot: Snapshot, troubles: list[TunnelSnapshot], revision: str) -> list[str]:
    if snapshot.liveness.ending:
        return ["the process is ending"]
    if snapshot.liveness.last_pass_age is None:
        return ["the process is starting"]
    missing = [snapshot.liveness.fault] if snapshot.liveness.fault else []
    if _is_rejected(snapshot, revision):
        # Any client may ask. The errors name files, so only `/api/v1/status` and commands show them.
        missing.append(f"revision {revision} was rejected: `tunnels status` shows the errors")
    elif revision and snapshot.config.revision != revision:
        loaded = snapshot.config.revision or "none"
        missing.append(f"revision {revision} is not loaded: the loaded revision is {loaded}")
    elif revision and not snapshot.config.converged:
        missing.append("the process is converging")
    return [*missing, *(sentence(one.id, one.condition) for one in troubles)]


def _is_rejected(snapshot: Snapshot, revision: str) -> bool:
    return bool(revision) and snapshot.config.rejected == revision


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers. A middleware would be too late: an event stream sends its headers before it returns."""
    response.headers.update(_HEADERS)


def _is_local(request: web.Request) -> bool:
    """Return True if the client connected to a loopback address."""
    address = request.get_extra_info("sockname")
    return isinstance(address, tuple) and is_loopback(str(address[0]).partition("%")[0])


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{redact(text)}\n")
