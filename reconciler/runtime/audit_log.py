"""Audit log lines: one when a client connection opens and one when it ends, for tunnels with `audit`.

Input: the client connection as the registry has it. Output: a line of the logger "reconciler.audit" with the origin,
the destination, the bytes in each direction, the duration, the reason for the end, and the revision of the files.
"""

from __future__ import annotations

import logging

from reconciler.ssh.relay.connection_registry import ConnectionInfo

log = logging.getLogger("reconciler.audit")  # the name is public: log collectors select by it


def write(connection: ConnectionInfo, why: str, seconds: float, revision: str) -> None:
    """Log that a client connection opened (`why` is "") or ended after `seconds` (`why` is the reason)."""
    client = f"{connection.user}@" if connection.user else ""
    client += connection.origin or "(a unix socket)"
    fields = {
        "target": connection.tunnel.partition("/")[0],
        "tunnel": connection.tunnel,
        "connection": connection.id,
        "origin": connection.origin,
        "user": connection.user,
        "to": connection.to,
        "revision": revision,
        "labels": dict(connection.labels) or None,
    }
    if not why:
        log.info(
            "tunnel %s: client %s to %s: opened [%s]", connection.tunnel, client, connection.to, revision, extra=fields
        )
        return
    fields |= {"sent": connection.sent, "received": connection.received, "seconds": round(seconds, 3), "why": why}
    log.info(
        "tunnel %s: client %s to %s: ended after %.1f s, %d bytes sent, %d received: %s [%s]",
        connection.tunnel,
        client,
        connection.to,
        seconds,
        connection.sent,
        connection.received,
        why,
        revision,
        extra=fields,
    )
