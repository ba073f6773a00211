"""Audit log lines: one when a client connection opens and one when it ends, for tunnels with `audit`.

Input: the client connection. Output: a line of the logger "reconciler.audit" with the origin, the destination, the
bytes in each direction, the duration, the reason for the end, and the revision of the files.
"""

from __future__ import annotations

import logging
import time

from reconciler.ssh.clients.connection import ClientConnection, ClientState

log = logging.getLogger("reconciler.audit")  # the name is public: log collectors select by it


def write(connection: ClientConnection, revision: str) -> None:
    """Log that a client connection opened, or that it ended if its state is CLOSED."""
    tunnel = connection.tunnel
    client = f"{connection.user}@" if connection.user else ""
    client += connection.origin or "(a unix socket)"
    fields = {
        "target": tunnel.target,
        "tunnel": tunnel.id,
        "connection": connection.id,
        "origin": connection.origin,
        "user": connection.user,
        "to": connection.to,
        "revision": revision,
        "labels": dict(tunnel.policy.labels) or None,
    }
    if connection.state is not ClientState.CLOSED:
        log.info("tunnel %s: client %s to %s: opened [%s]", tunnel.id, client, connection.to, revision, extra=fields)
        return
    seconds = time.monotonic() - connection.accepted
    fields |= {
        "sent": connection.sent,
        "received": connection.received,
        "seconds": round(seconds, 3),
        "why": connection.why,
    }
    log.info(
        "tunnel %s: client %s to %s: ended after %.1f s, %d bytes sent, %d received: %s [%s]",
        tunnel.id,
        client,
        connection.to,
        seconds,
        connection.sent,
        connection.received,
        connection.why,
        revision,
        extra=fields,
    )
