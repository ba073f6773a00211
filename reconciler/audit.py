"""The audit's lines: one when a client's connection opens, one when it ends, for tunnels with `audit`.

In: the client as the ledger has it. Out: a log line of the logger "reconciler.audit" that says who, to what, how much
each way, for how long, why it ended, and by which revision of the files that was allowed.
"""

from __future__ import annotations

import logging

from reconciler.ssh.ledger import Visit

log = logging.getLogger(__name__)


def write(visit: Visit, why: str, seconds: float, revision: str) -> None:
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
