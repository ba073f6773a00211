"""Checks in the background whether the configured passwords of SOCKS users can be read.

Owns one task for each tunnel whose passwords are being checked. Input: a tunnel to check. Output: a call of `checked`
with the tunnel and its failure, or None.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from reconciler.core.observed import Failure
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.clients.socks import unreadable_password


class PasswordChecker:
    """Runs one check at a time for each tunnel. A request during a check starts another one after it."""

    def __init__(self, environ: Mapping[str, str], checked: Callable[[TunnelSpec, Failure | None], None]) -> None:
        self._environ = environ
        self._checked = checked
        self._requested: dict[str, TunnelSpec] = {}  # by tunnel id
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by tunnel id

    def check(self, tunnel: TunnelSpec) -> None:
        """Start a check, or request one after the check that runs."""
        self._requested[tunnel.id] = tunnel
        if tunnel.id not in self._tasks:
            work = self._check(tunnel.id)
            self._tasks[tunnel.id] = asyncio.create_task(work, name=f"SOCKS passwords of {tunnel.id}")

    async def close(self) -> None:
        """Cancel the running checks."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _check(self, tunnel_id: str) -> None:
        try:
            while (tunnel := self._requested.pop(tunnel_id, None)) is not None:
                self._checked(tunnel, await unreadable_password(tunnel, self._environ))
        finally:
            self._tasks.pop(tunnel_id, None)
