"""Types of the control socket's JSON responses (docs/contract.md). At run time they are plain dicts."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class FileJson(TypedDict):
    path: str
    valid: bool
    error: str | None


class ConfigJson(TypedDict):
    files: list[FileJson]
    revision: str | None
    loadedAt: str | None
    converged: bool


class TargetJson(TypedDict):
    name: str
    phase: str
    reason: str | None
    message: str | None
    needsAction: bool
    nextTryAt: str | None
    host: str | None
    since: str | None
    reconnects: int
    off: NotRequired[str]
    nextTryWait: NotRequired[str | None]
    hosts: NotRequired[list[str]]
    via: NotRequired[list[str]]
    cipher: NotRequired[str | None]
    kex: NotRequired[str | None]
    rttSeconds: NotRequired[float | None]
    hostKeyVerified: NotRequired[bool | None]


# The last client of a tunnel that got no connection. This form because `from` is a Python keyword.
ClientFailureJson = TypedDict("ClientFailureJson", {"at": str, "from": str | None, "result": str, "message": str})


class TunnelJson(TypedDict):
    id: str
    target: str
    name: str
    type: str
    phase: str
    up: bool
    reason: str | None
    message: str | None
    needsAction: bool
    listen: str
    dial: str
    connections: int
    held: int
    bytesSent: int
    bytesReceived: int
    reconnects: int
    since: str | None
    off: NotRequired[str]
    description: NotRequired[str]
    expiresAt: NotRequired[str | None]
    labels: NotRequired[dict[str, str]]
    nextTryAt: NotRequired[str | None]
    nextTryWait: NotRequired[str | None]
    lastClientFailure: NotRequired[ClientFailureJson | None]


class StatusJson(TypedDict):
    version: str
    instance: str
    config: ConfigJson
    ending: NotRequired[bool]
    fault: NotRequired[str]
    shard: NotRequired[str]
    targets: list[TargetJson]
    tunnels: list[TunnelJson]


class EventJson(TypedDict):
    at: str
    subject: str
    phase: str | None
    before: str | None
    reason: str | None
    message: str | None


# A live client connection. This form because `from` is a Python keyword.
Client = TypedDict(
    "Client",
    {
        "id": str,
        "tunnel": str,
        "from": str | None,
        "to": str | None,
        "user": str | None,
        "since": str | None,
        "bytesSent": int,
        "bytesReceived": int,
        "link": int | None,
        "state": str,
    },
)


class StepJson(TypedDict):
    step: str
    ok: bool
    detail: str | None
    fix: str | None


class PlannedStepJson(TypedDict):
    """One step of a plan: the action name in lower case; `subject` as in events, "target prod" or "tunnel prod/pg".

    `changes`: the changed fields as text.
    """

    action: str
    subject: str
    why: str
    clients: int
    changes: NotRequired[list[str]]


class PlanJson(TypedDict):
    actions: list[PlannedStepJson]
    clients: int
    errors: list[str]
    warnings: list[str]


class ReloadJson(TypedDict):
    valid: bool
    revision: str
    errors: list[str]
