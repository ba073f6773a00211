"""Who is connected at the moment, and who waits: for `tunnels connections` and for the audit.

Owns one entry for each client from when it is let in to its end. In: a call at each of these moments, from Arrivals.
Out: `ConnectionInfo`s, and to `audit` each opening and each end of a client of a tunnel whose policy asks for it.
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
    """One client. `since` is Unix time, `origin` "" for a client of a unix socket, `user` "" for one without a login,
    `link` None while it waits.
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


# Called with the client, "" when its connection opens and why it ended when it ends, and how long it was there.
Audit = Callable[[ConnectionInfo, str, float], None]


@dataclass(slots=True, eq=False)
class RegisteredConnection:
    """One client's line."""

    id: int
    tunnel: TunnelSpec
    origin: Origin
    since: float
    began: float  # monotonic
    relay: Relay | None = None
    link: int | None = None
    opened: bool = False
    told: bool = False  # the audit knows of it: then it hears of its end too, whatever the policy says by then

    def visit(self) -> ConnectionInfo:
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
    """See the module."""

    def __init__(self, audit: Audit | None = None) -> None:
        self._audit = audit
        self._entries: dict[int, RegisteredConnection] = {}
        self._next = 1

    def arrived(self, tunnel: TunnelSpec, origin: Origin) -> RegisteredConnection:
        """A client that may come in."""
        entry = RegisteredConnection(self._next, tunnel, origin, time.time(), time.monotonic())
        self._next += 1
        self._entries[entry.id] = entry
        return entry

    def opened(self, entry: RegisteredConnection) -> None:
        """Its connection to the destination is open."""
        entry.opened = True
        if self._audit is not None and entry.tunnel.policy.audit:
            entry.told = True
            self._audit(entry.visit(), "", 0.0)

    def ended(self, entry: RegisteredConnection, why: str) -> None:
        """It has gone. Called again: nothing."""
        if self._entries.pop(entry.id, None) is None:
            return
        if entry.opened and self._audit is not None and (entry.told or entry.tunnel.policy.audit):
            self._audit(entry.visit(), why, time.monotonic() - entry.began)

    def reapply(self, tunnel: TunnelSpec, owner: Callable[[Relay], str | None]) -> None:
        """The tunnel changed, its name perhaps: that holds for the clients that are there. `owner` as below."""
        for entry in self._entries.values():
            now = owner(entry.relay) if entry.relay is not None else None
            if (now or entry.tunnel.id) == tunnel.id:
                entry.tunnel = tunnel

    def visits(self, owner: Callable[[Relay], str | None]) -> Iterator[ConnectionInfo]:
        """Everybody, the oldest first. `owner` tells whose a relay is now: a tunnel may have been renamed since."""
        for entry in tuple(self._entries.values()):
            now = owner(entry.relay) if entry.relay is not None else None
            yield replace(entry.visit(), tunnel=now) if now is not None else entry.visit()
