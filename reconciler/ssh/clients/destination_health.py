"""The state of the tunnels' destinations, as their clients meet them, and of their SOCKS users' passwords.

Writes `destination` of each tunnel's record, and owns one task for each tunnel whose passwords are being checked.
Input: the result of each dial; tunnels to check. Calls `changed` when a status may change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from reconciler.core.observed import Destination, Failure, Reason
from reconciler.core.spec import Socks, TunnelSpec
from reconciler.core.status import UNHEALTHY_AFTER
from reconciler.ssh.clients.connection import ListenerClients
from reconciler.ssh.clients.socks import unreadable_password
from reconciler.ssh.records import Records


class DestinationHealth:
    """Notes which destinations cannot be reached. `changed` is called when the planner should run again."""

    def __init__(self, environ: Mapping[str, str], changed: Callable[[], None], records: Records) -> None:
        self._changed = changed
        self._records = records
        self._environ = environ
        self._to_check: dict[str, TunnelSpec] = {}  # by tunnel id: one request beside the check that runs
        self._checks: dict[str, asyncio.Task[None]] = {}  # by tunnel id

    async def close(self) -> None:
        """Cancel the running checks."""
        checks = tuple(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    def observed(self) -> dict[str, Destination]:
        """Return the last result by tunnel id, where it is a failure."""
        found = ((one.id, one.clients.destination) for one in self._records.tunnels())
        return {tunnel: destination for tunnel, destination in found if destination is not None}

    def unreachable(self, listener: ListenerClients, tunnel: TunnelSpec, failure: Failure) -> None:
        """Note a failed dial of the destination that the tunnel had when the client connected."""
        self._records.tunnel(tunnel.id).failures[failure.reason] += 1
        # A timeout is a failure of the server, not of the destination.
        if failure.reason is not Reason.TIMEOUT and listener.still_leads_to(tunnel):
            clients = self._records.tunnel(listener.state.owner.id).clients
            failures = clients.destination.failures if clients.destination is not None else 0
            clients.destination = Destination(failures + 1, failure)
            self._changed()

    def reached(self, tunnel: TunnelSpec) -> None:
        """Note a successful dial."""
        clients = self._records.tunnel(tunnel.id).clients
        if clients.destination is not None:
            clients.destination = None
            self._changed()

    def check_passwords(self, tunnel: TunnelSpec) -> None:
        """Start a check whether the passwords of the tunnel's users can be read: if not, the status must say why.

        One check runs at a time for each tunnel. A request during a check starts another one after it.
        """
        if tunnel.policy.users or self._records.tunnel(tunnel.id).clients.destination is not None:
            self._to_check[tunnel.id] = tunnel
            if tunnel.id not in self._checks:
                work = self._check_passwords(tunnel.id)
                self._checks[tunnel.id] = asyncio.create_task(work, name=f"SOCKS passwords of {tunnel.id}")

    async def _check_passwords(self, tunnel_id: str) -> None:
        try:
            while (tunnel := self._to_check.pop(tunnel_id, None)) is not None:
                self._checked(tunnel, await unreadable_password(tunnel, self._environ))
        finally:
            del self._checks[tunnel_id]

    def _checked(self, tunnel: TunnelSpec, failure: Failure | None) -> None:
        record = self._records.known_tunnel(tunnel.id)
        if record is None:
            return  # the tunnel was removed meanwhile
        if failure is None:
            if isinstance(tunnel.route, Socks):
                self.reached(tunnel)
            return
        is_new, record.clients.destination = record.clients.destination is None, Destination(UNHEALTHY_AFTER, failure)
        if is_new:
            record.failures[failure.reason] += 1
            self._changed()
