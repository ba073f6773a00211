"""Made-up details of one tunnel for the status JSON (docs/contract.md): its last hour, failures and clients."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


def stamp(at: float) -> str:
    """Format Unix time as the program does."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def detail(tunnel_id: str, **fields: Any) -> Json:
    """Return the detail of a tunnel that was up for an hour."""
    return {
        "id": tunnel_id,
        "file": "/etc/tunnels/tunnels.yaml",
        "line": 12,
        "history": hour(),
        "failures": [],
        "clients": [],
        **fields,
    }


def hour(**minutes: tuple[float, float, float, int, int]) -> Json:
    """Return a history. `m3=(up, down, off, losses, reconnects)`: the minute three minutes ago; others are up."""
    now = time.time()
    numbers = [minutes.get(f"m{ago}", (60.0 if ago else now % 60, 0.0, 0.0, 0, 0)) for ago in range(59, -1, -1)]
    columns = [list(column) for column in zip(*numbers, strict=True)]
    return {
        "since": stamp(now // 60 * 60 - 59 * 60),
        **dict(zip(("up", "down", "off", "losses", "reconnects"), columns, strict=True)),
    }


def failure(ago: float, reason: str, message: str, count: int = 1) -> Json:
    """Return a failure that occurred `ago` seconds ago, and before that once a minute."""
    now = time.time()
    first = stamp(now - ago - 60 * (count - 1))
    return {"first": first, "last": stamp(now - ago), "count": count, "reason": reason, "message": message}


def client(origin: str | None, ago: float, sent: int = 0, received: int = 0, state: str = "live") -> Json:
    return {
        "from": origin,
        "since": stamp(time.time() - ago),
        "bytesSent": sent,
        "bytesReceived": received,
        "state": state,
    }
