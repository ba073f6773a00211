"""The page of the endpoints: HTTP, the control socket, and the keys of their JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints, is_typeddict

from aiohttp import web

from generate.markdown import page, table
from generate.sample import sample
from reconciler.cli.response_keys import KEYS
from reconciler.cli.responses import (
    Client,
    ClientFailureJson,
    ConfigJson,
    EventJson,
    FileJson,
    PlanJson,
    PlannedStepJson,
    ReloadJson,
    StatusJson,
    StepJson,
    TargetJson,
    TunnelJson,
)
from reconciler.core.observed import Phase
from reconciler.report import control, http_routes
from reconciler.report.events import Event
from reconciler.report.snapshot import Snapshot, to_json

_INTRODUCTION = """\
`tunnels run` serves HTTP at `--listen`, by default 127.0.0.1:9722, and a control socket at `--control`. HTTP is read
only. The control socket also takes the requests that change the process, from the user of the process and from root.
Readers must ignore keys that they do not know.
"""
_CONTROL = """\
Requests and responses are JSON. An error is `{"error": "a sentence"}` with status 400 for a request that is not
understood, 403 for another user. `curl --unix-socket "$XDG_RUNTIME_DIR/tunnels.sock" http://tunnels/api/v1/status`
shows the status.
"""
_TIMES = "Times are RFC 3339 in UTC. Each key is present unless its meaning says when it is absent.\n"

SECTIONS = (
    ("Status", StatusJson, "The response of `/api/v1/status`, and of `tunnels status --output json`."),
    ("Status: `config`", ConfigJson, ""),
    ("Status: `config.files[]`", FileJson, ""),
    ("Status: `targets[]`", TargetJson, ""),
    ("Status: `tunnels[]`", TunnelJson, ""),
    ("Status: `tunnels[].lastClientFailure`", ClientFailureJson, ""),
    ("Events", EventJson, "One event of `/api/v1/events`, and one line of `tunnels events --output json`."),
    ("Connections: `connections[]`", Client, "One client of `/api/v1/connections`."),
    ("Diagnose: `steps[]`", StepJson, "One test of `/api/v1/diagnose`."),
    ("Reload", ReloadJson, "The response of `/api/v1/reload`."),
    ("Plan", PlanJson, "The response of `/api/v1/plan`."),
    ("Plan: `actions[]`", PlannedStepJson, "One step of a plan, also of `tunnels plan --output json`."),
)
_EXAMPLE: dict[str, object] = {
    "phase": Phase.UP,
    "reason": None,
    "message": "",
    "next_try_at": None,
    "next_try_wait": None,
    "client_failure": None,
    "off": None,
    "needs_action": False,
    "ending": False,
    "fault": "",
    "shard": None,
    "error": "",
}


def routes(app: web.Application) -> Iterator[tuple[str, str, str]]:
    """Yield the method, path and description of each route; the description is the docstring of its handler."""
    for resource in app.router.resources():
        for route in resource:
            if route.method != "HEAD":
                yield route.method, resource.canonical, " ".join((inspect.getdoc(route.handler) or "").split())


def http_application() -> web.Application:
    """Return the application with its rules alone: none of its handlers is called."""
    parts = inspect.signature(http_routes.application).parameters
    given: dict[str, Any] = dict.fromkeys(parts) | {"rules": http_routes.Rules()}
    return http_routes.application(**given)


def control_application() -> web.Application:
    """Return the application: none of its handlers is called."""
    return control.application(cast("Any", None), 0)


def endpoints() -> str:
    """Return the page as Markdown."""
    http = ((f"`{path}`", _access(path), text) for _, path, text in routes(http_application()))
    requests = ((f"`{method} {path}`", text) for method, path, text in routes(control_application()))
    status = json.dumps(to_json(sample(Snapshot, **_EXAMPLE)), indent=2, ensure_ascii=False)
    event = sample(Event, phase="down", before="connecting", reason="timeout").to_json()
    examples = {StatusJson: status, EventJson: json.dumps(event, indent=2)}
    return page(
        "Endpoints",
        _INTRODUCTION,
        f"## HTTP\n\n{_ACCESS}\n{table(('path', 'open to', 'answer'), http)}",
        f"## Control socket\n\n{_CONTROL}\n{table(('request', 'what it does'), requests)}",
        f"## JSON\n\n{_TIMES}",
        *(_keys(title, kind, text, examples.get(kind, "")) for title, kind, text in SECTIONS),
    )


_ACCESS = """\
*Any client*: any that can connect to the address. *Named host*: any client, if the Host header is an address, localhost
or a name of `--allowed-hosts`. *Loopback*: as named host, and the client connects to loopback, or the process has
`--expose-status`. Another client gets status 403, and another method than GET or HEAD gets 405.
"""


def _access(path: str) -> str:
    if path in http_routes.OPEN_PATHS:
        return "any client"
    return "named host" if path.startswith("/readyz/") else "loopback"


def _keys(title: str, kind: type, text: str, example: str) -> str:
    types = get_type_hints(kind)
    rows = ((f"`{key}`", json_type(types[key]), meaning) for key, meaning in KEYS[kind].items())
    parts = [f"### {title}"]
    parts += [text] * bool(text)
    parts += [f"```json\n{example}\n```"] * bool(example)
    return "\n\n".join([*parts, table(("key", "type", "meaning"), rows)])


def json_type(kind: Any) -> str:
    """Return the JSON type of an annotation, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return " or ".join(map(json_type, arguments))
    if origin is list:
        return f"list of {_plural(arguments[0])}"
    if origin is dict or is_typeddict(kind):
        return "object"
    return {NoneType: "null", str: "text", int: "number", float: "number", bool: "true or false"}[kind]


def _plural(kind: Any) -> str:
    return "objects" if is_typeddict(kind) else f"{json_type(kind)}s"
