"""Checks new clients at their accept: by the source rules, `maxConnections` and the descriptor budget.

Input: a listener and the origin of a new client. Output: yes or no. Counts clients by result, notes the last that was
refused, and logs the refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reconciler.core.descriptor_budget import AWAY, Budget, ClientPlace
from reconciler.core.observed import ClientFailure, ClientResult, Reason
from reconciler.core.rules.admission import source_allowed
from reconciler.core.rules.origin import Origin
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.connection import ListenerClients
from reconciler.ssh.clients.refusal_log import RefusalLog
from reconciler.ssh.records import Records

_NOT_ALLOWED = "its address is not allowed (allow, deny)"


class AcceptCheck:
    """Checks new clients. `has_link` returns whether a target has a usable link."""

    def __init__(self, budget: Budget, has_link: Callable[[str], bool], records: Records) -> None:
        self._budget = budget
        self._has_link = has_link
        self._records = records
        self._refusals = RefusalLog()

    def count(self, tunnel: TunnelSpec, result: ClientResult) -> None:
        """Count one client."""
        self._records.tunnel(tunnel.id).clients.results[result] += 1

    def refuse(self, tunnel: TunnelSpec, result: ClientResult, origin: Origin, why: str) -> None:
        """Count one refused client. Note and log it unless `why` is ""."""
        self.count(tunnel, result)
        if why:
            failure = ClientFailure(time.time(), str(origin), result, why)
            self._records.tunnel(tunnel.id).clients.last_failure = failure
            self._refusals.report(tunnel, result, origin.host, why)

    def refusal(self, listener: ListenerClients, origin: Origin) -> ClientResult | None:
        """Return why a new client may not connect, counted and logged; None if it may."""
        tunnel = listener.state.owner
        if not source_allowed(tunnel, origin):
            result, why = ClientResult.DENIED, _NOT_ALLOWED
        elif (
            0 < tunnel.policy.max_connections <= len(listener.waiting) + self._records.tunnel(tunnel.id).clients.active
        ):
            result, why = ClientResult.LIMIT, f"maxConnections {tunnel.policy.max_connections} is reached"
        else:
            return None
        self.refuse(tunnel, result, origin, why)
        return result

    def take_place(self, listener: ListenerClients, origin: Origin) -> ClientPlace | None:
        """Return a place in the descriptor budget for a new client. None, counted and logged, if there is none."""
        tunnel = listener.state.owner
        group = tunnel.target if self._has_link(tunnel.target) else AWAY
        place = self._budget.take_client(listener.state.key, tunnel.id, group)
        if place is None:
            self.refuse(tunnel, ClientResult.LIMIT, origin, self._budget.no_client().message)
            self._records.tunnel(tunnel.id).failures[Reason.RESOURCES] += 1
        return place
