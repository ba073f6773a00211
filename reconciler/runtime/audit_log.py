"""Audit log lines: one when a client connection opens and one when it ends, for tunnels with `audit`.

Input: the client connection as the registry has it. Output: a line of the logger "reconciler.audit" with the origin,
the destination, the bytes in each direction, the duration, the reason for the end, and the revision of the files.
"""

from __future__ import annotations

import logging

from reconciler.ssh.relay.connection_registry import ConnectionInfo

log = logging.getLogger("reconciler.audit")  # the name is public: log collectors select by it


def write(visit: ConnectionInfo, why: str, seconds: float, revision: str) -> None:
    """`why` is "" when it opens."""
    who = f"{visit.user}@" if visit.user else ""
    who += visit.origin or "(a unix socket)"
    fields = {
        "target": visit.tunnel.partition("/")[0],
        "tunnel": visit.tunnel,
        "connection": visit.id,
        "origin": visit.origin,
        "user": visit.user,
        "to": visit.to,
        "revision": revision,
        "labels": dict(visit.labels) or None,
    }
    if not why:
        log.info("tunnel %s: client %s to %s: opened [%s]", visit.tunnel, who, visit.to, revision, extra=fields)
        return
    fields |= {"sent": visit.sent, "received": visit.received, "seconds": round(seconds, 3), "why": why}
    log.info(
        "tunnel %s: client %s to %s: ended after %.1f s, %d bytes sent, %d received: %s [%s]",
        visit.tunnel,
        who,
        visit.to,
        seconds,
        visit.sent,
        visit.received,
        why,
        revision,
        extra=fields,
    )
