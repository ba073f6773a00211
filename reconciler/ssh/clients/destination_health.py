"""The state of the tunnels' destinations, as their clients meet them, and of their SOCKS users' passwords.

Writes `destination` of each tunnel's record. Input: the result of each dial; tunnels to check. Calls `changed` when a
status may change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reconciler.core.observed import Destination, Failure, Reason
from reconciler.core.spec import Socks, TunnelSpec
from reconciler.core.status import UNHEALTHY_AFTER
from reconciler.ssh.clients.connection import ListenerClients
from reconciler.ssh.clients.password_check import PasswordChecker
from reconciler.ssh.clients.tunnel_clients import ByTunnel
from reconciler.ssh.records import Records


class DestinationHealth:
    """Notes which destinations cannot be reached. `changed` is called when the planner should run again."""

    def __init__(
        self, by_tunnel: ByTunnel, environ: Mapping[str, str], changed: Callable[[], None], records: Records
    ) -> None:
        self._by_tunnel = by_tunnel
        self._changed = changed
        self._records = records
        self._passwords = PasswordChecker(environ, self._passwords_checked)

    async def close(self) -> None:
        """Cancel the running checks."""
        await self._passwords.close()

    def observed(self) -> dict[str, Destination]:
        """Return the last result by tunnel id, where it is a failure."""
        return {tunnel: one.destination for tunnel, one in self._by_tunnel.items() if one.destination is not None}

    def unreachable(self, listener: ListenerClients, tunnel: TunnelSpec, failure: Failure) -> None:
        """Note a failed dial of the destination that the tunnel had when the client connected."""
        self._records.tunnel(tunnel.id).failures[failure.reason] += 1
        # A timeout is a failure of the server, not of the destination.
        if failure.reason is not Reason.TIMEOUT and listener.still_leads_to(tunnel):
            clients = self._by_tunnel[listener.state.owner.id]
            failures = clients.destination.failures if clients.destination is not None else 0
            clients.destination = Destination(failures + 1, failure)
            self._changed()

    def reached(self, tunnel: TunnelSpec) -> None:
        """Note a successful dial."""
        clients = self._by_tunnel.get(tunnel.id)
        if clients is not None and clients.destination is not None:
            clients.destination = None
            self._changed()

    def check_passwords(self, tunnel: TunnelSpec) -> None:
        """Start a check whether the passwords of the tunnel's users can be read: if not, the status must say why."""
        clients = self._by_tunnel[tunnel.id] if tunnel.policy.users else self._by_tunnel.get(tunnel.id)
        if clients is not None and (tunnel.policy.users or clients.destination is not None):
            self._passwords.check(tunnel)

    def _passwords_checked(self, tunnel: TunnelSpec, failure: Failure | None) -> None:
        clients = self._by_tunnel.get(tunnel.id)
        if clients is None:
            return  # the tunnel was removed meanwhile
        if failure is None:
            if isinstance(tunnel.route, Socks):
                self.reached(tunnel)
            return
        is_new, clients.destination = clients.destination is None, Destination(UNHEALTHY_AFTER, failure)
        if is_new:
            self._records.tunnel(tunnel.id).failures[failure.reason] += 1
            self._changed()
