"""The detail of one tunnel, for the status page: where it is defined, its history, its clients.

Input: plain values, copied by `runtime/snapshot_builder.py`. Output: the JSON of `/api/v1/status?tunnel=ID`
(docs/contract.md). It has neither the names of SOCKS users nor the destinations that clients ask for: HTTP has no
login, unlike the control socket.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.report.history import TunnelHistory
from reconciler.report.snapshot import Json, iso

CLIENTS_MAX = 100  # clients that are listed, the newest ones


@dataclass(frozen=True, slots=True)
class ClientSnapshot:
    """A client connection. `origin`: its address, "" for a client of a unix socket. `held`: it waits for a link."""

    origin: str
    since: float
    sent: int
    received: int
    held: bool


@dataclass(frozen=True, slots=True)
class TunnelDetail:
    """The detail of the tunnel `id`.

    file, line   where it is defined; "" and 0 if it is no longer in the files
    clients      newest first, at most CLIENTS_MAX
    """

    id: str
    file: str
    line: int
    history: TunnelHistory
    clients: tuple[ClientSnapshot, ...]

    def to_json(self) -> Json:
        history = self.history
        return {
            "id": self.id,
            "file": self.file or None,
            "line": self.line or None,
            "history": {
                "since": iso(history.since),
                "up": list(history.up),
                "down": list(history.down),
                "off": list(history.off),
                "losses": list(history.losses),
                "reconnects": list(history.reconnects),
            },
            "failures": [
                {
                    "first": iso(failure.first),
                    "last": iso(failure.last),
                    "count": failure.count,
                    "reason": failure.reason.value,
                    "message": failure.message,
                }
                for failure in history.failures
            ],
            "clients": [
                {
                    "from": client.origin or None,
                    "since": iso(client.since),
                    "bytesSent": client.sent,
                    "bytesReceived": client.received,
                    "state": "held" if client.held else "live",
                }
                for client in self.clients
            ],
        }
