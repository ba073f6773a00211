"""The registry of client connections, held ones included: for `tunnels connections` and for the audit log.

Owns one record for each client from its acceptance to its end. Input: a call of the connector at each step. Output:
`ConnectionInfo`s, and a call of `audit` when a connection of a tunnel with `audit` opens and when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from reconciler.core.rules.origin import Origin
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.relay.relay import Relay


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """What is reported about one client connection.

    origin  "" for a client of a unix socket
    user    "" for a client without a login
    since   Unix time
    link    None while the client is held
    """

    id: int
    tunnel: str
    origin: str
    to: str
    user: str
    since: float
    sent: int
    received: int
    link: int | None
    labels: tuple[tuple[str, str], ...]


# Called with the connection; "" when it opens, the reason when it ends; and its duration in seconds.
Audit = Callable[[ConnectionInfo, str, float], None]


@dataclass(slots=True, eq=False)
class RegisteredConnection:
    """The record of one client connection."""

    id: int
    tunnel: TunnelSpec
    origin: Origin
    since: float
    started: float  # monotonic
    relay: Relay | None = None
    link: int | None = None
    opened: bool = False
    audited: bool = False  # its opening was audited: then its end is, too, even if the policy has changed

    def info(self) -> ConnectionInfo:
        relay = self.relay
        user = relay.client_info.user if relay is not None else None
        return ConnectionInfo(
            id=self.id,
            tunnel=self.tunnel.id,
            origin=str(self.origin),
            to=relay.client_info.to if relay is not None else str(self.tunnel.route),
            user=user.name if user is not None else "",
            since=self.since,
            sent=relay.sent if relay is not None else 0,
            received=relay.received if relay is not None else 0,
            link=self.link,
            labels=self.tunnel.policy.labels,
        )


class ConnectionRegistry:
    """The client connections by id."""

    def __init__(self, audit: Audit | None = None) -> None:
        self._audit = audit
        self._entries: dict[int, RegisteredConnection] = {}
        self._next = 1

    def add(self, tunnel: TunnelSpec, origin: Origin) -> RegisteredConnection:
        """Add a client that the rules allow."""
        entry = RegisteredConnection(self._next, tunnel, origin, time.time(), time.monotonic())
        self._next += 1
        self._entries[entry.id] = entry
        return entry

    def opened(self, entry: RegisteredConnection) -> None:
        """Note that its connection to the destination is open."""
        entry.opened = True
        if self._audit is not None and entry.tunnel.policy.audit:
            entry.audited = True
            self._audit(entry.info(), "", 0.0)

    def ended(self, entry: RegisteredConnection, why: str) -> None:
        """Remove a connection that has ended. A second call does nothing."""
        if self._entries.pop(entry.id, None) is None:
            return
        if entry.opened and self._audit is not None and (entry.audited or entry.tunnel.policy.audit):
            self._audit(entry.info(), why, time.monotonic() - entry.started)

    def reapply(self, tunnel: TunnelSpec, owner: Callable[[Relay], str | None]) -> None:
        """Apply a changed tunnel, perhaps renamed, to its live connections. `owner`: see `connections`."""
        for entry in self._entries.values():
            tunnel_id = owner(entry.relay) if entry.relay is not None else None
            if (tunnel_id or entry.tunnel.id) == tunnel.id:
                entry.tunnel = tunnel

    def connections(self, owner: Callable[[Relay], str | None]) -> Iterator[ConnectionInfo]:
        """Yield all connections, oldest first. `owner` returns the tunnel id of a relay, which an edit may change."""
        for entry in tuple(self._entries.values()):
            tunnel_id = owner(entry.relay) if entry.relay is not None else None
            yield replace(entry.info(), tunnel=tunnel_id) if tunnel_id is not None else entry.info()
