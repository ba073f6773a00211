"""The HTTP endpoints: metrics, liveness, readiness, the status page and its data. Read only (DESIGN section 7).

In: where to get a snapshot. Out: an aiohttp application. Who may see what:

    /metrics, /livez, /readyz         everybody who can connect
    /readyz/TARGET/TUNNEL             everybody who can connect, by a Host header that is an address, localhost or an
                                      allowed name: else any web page could read it through its visitor's browser, by
                                      a name that it makes resolve to 127.0.0.1
    /, /page/..., /api/v1/...         with such a Host header, through loopback or with --expose-status
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from reconciler.report.event_stream import stream
from reconciler.report.events import Events
from reconciler.report.metrics import Metrics
from reconciler.report.snapshot import Pulse, Snapshot, TunnelSnapshot, sentence, to_json
from reconciler.system.redaction import redact, redact_json

PAGE = Path(__file__).parent / "page"
PASS_WITHIN = 60.0  # seconds without a pass of the loop: it hangs; it makes one every few seconds
LAG_MAX = 10.0  # seconds by which the event loop was late

_OPEN = ("/metrics", "/livez", "/readyz")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "tunnels",  # the versions of Python and aiohttp are nobody's business
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
    """What the command line says: `metric_labels` are the labels of tunnels that metrics may show."""

    expose_status: bool = False
    allowed_hosts: tuple[str, ...] = ()
    metric_labels: tuple[str, ...] = ()


def application(
    snapshot: Callable[[], Snapshot], pulse: Callable[[], Pulse], events: Events, rules: Rules
) -> web.Application:
    """The application, to be served."""
    http = _Http(snapshot, pulse, events, rules)
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
        self, snapshot: Callable[[], Snapshot], pulse: Callable[[], Pulse], events: Events, rules: Rules
    ) -> None:
        self._snapshot = snapshot
        self._pulse = pulse
        self._events = events
        self._rules = rules
        self._metrics = Metrics(rules.metric_labels)
        self._files = _page_files()

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Who may ask what."""
        try:
            refusal = self._refusal(request)
            return refusal if refusal is not None else await handler(request)
        except web.HTTPException as error:
            return _text(error.status, error.reason)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.method not in ("GET", "HEAD"):
            refusal = _text(405, "read only: changes go through the control socket")
            refusal.headers["Allow"] = "GET, HEAD"
            return refusal
        if request.path in _OPEN:
            return None
        is_probe = request.path.startswith("/readyz/")
        if not is_probe and not self._rules.expose_status and not _is_local(request):
            return _text(403, "shown on loopback only; --expose-status shows it to everybody who can connect")
        if not is_host_allowed(request.headers.get("Host", ""), self._rules.allowed_hosts):
            return _text(403, "this name is not among --allowed-hosts; an address will do")
        return None

    # --- for machines ------------------------------------------------------------------------------------------

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = await self._metrics.render(self._snapshot(), accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def livez(self, request: web.Request) -> web.Response:
        wrong = ailment(self._pulse())
        return _text(503 if wrong else 200, wrong or "ok")

    async def readyz(self, request: web.Request) -> web.Response:
        snapshot = self._snapshot()
        return _ready(snapshot.pulse, snapshot.troubles(critical=True))

    async def ready_tunnel(self, request: web.Request) -> web.Response:
        tunnel = f"{request.match_info['target']}/{request.match_info['tunnel']}"
        snapshot = self._snapshot()
        if not any(one.id == tunnel for one in snapshot.tunnels):
            return _text(404, "there is no such tunnel")
        return _ready(snapshot.pulse, [one for one in snapshot.troubles(critical=False) if one.id == tunnel])

    # --- for people --------------------------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(redact_json(to_json(self._snapshot())))

    async def events(self, request: web.Request) -> web.StreamResponse:
        return await stream(request, self._events)

    async def page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("file", "index.html")
        if name not in self._files:
            return _text(404, "there is no such page")
        content, content_type = self._files[name]
        return web.Response(body=content, headers={"Content-Type": f"{content_type}; charset=utf-8"})


def _page_files() -> dict[str, tuple[bytes, str]]:
    """The content and type of each file of the page, by name.

    They are read once, so that no request names a path.
    """
    return {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in PAGE.iterdir() if path.suffix in _TYPES}


def ailment(pulse: Pulse) -> str:
    """Why the process is as good as dead, "" if it is not."""
    if pulse.passed is not None and pulse.passed > PASS_WITHIN:
        return f"the reconcile loop has not looked for {pulse.passed:.0f} s"
    if pulse.again > LAG_MAX:  # once, it was the whole process that was stopped, and goes on
        return f"the event loop is late by {pulse.again:.0f} s"
    return ""


def is_host_allowed(header: str, allowed: tuple[str, ...]) -> bool:
    """Whether a Host header names an address, localhost or an allowed name; the port is anybody's."""
    host = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    host = host.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host in (name.lower() for name in allowed)
    return True


def _ready(pulse: Pulse, troubles: list[TunnelSnapshot]) -> web.Response:
    if pulse.ending:
        return _text(503, "it is ending")
    if pulse.passed is None:
        return _text(503, "it is starting")
    said = [pulse.fault] if pulse.fault else []
    said += [sentence(one.id, one.condition) for one in troubles]
    return _text(503 if said else 200, "\n".join(said) or "ok")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """They keep browsers from doing more than was meant. Here, as a stream of events is under way before it returns."""
    response.headers.update(_HEADERS)


def _is_local(request: web.Request) -> bool:
    """Whether the connection was made to a loopback address of this machine."""
    address = request.get_extra_info("sockname")
    return isinstance(address, tuple) and ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{redact(text)}\n")
