"""What a tunnel's policy leaves its clients: bandwidth; and what the log says of those who were sent away.

Owns the shared buckets, and when the next line about refusals is due. Who may come, and stay, is `core.access`.
"""

from __future__ import annotations

import asyncio
import logging
import time

from reconciler.core.spec import TunnelSpec
from reconciler.core.token_bucket import Bucket

log = logging.getLogger(__name__)

FIRST, LONGEST = 10.0, 600.0  # seconds from one line about refusals of a kind to the next: doubled each time


class Throttles:
    """The buckets of the tunnels that have a bandwidth limit: one each direction, shared by a tunnel's clients."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[Bucket, Bucket]] = {}

    def of(self, tunnel: TunnelSpec) -> tuple[Bucket, Bucket] | tuple[None, None]:
        """Towards the server and from it; at the present rate."""
        rate = tunnel.policy.bandwidth_limit
        if not rate:
            self._buckets.pop(tunnel.id, None)
            return None, None
        buckets = self._buckets.get(tunnel.id)
        if buckets is None:
            buckets = self._buckets[tunnel.id] = (Bucket(rate, time.monotonic), Bucket(rate, time.monotonic))
        for bucket in buckets:
            bucket.rate = rate
        return buckets

    def forget(self, live: set[str]) -> None:
        for tunnel in [tunnel for tunnel in self._buckets if tunnel not in live]:
            del self._buckets[tunnel]


class RefusalLog:
    """Clients who were sent away, in the log: the first of a kind and tunnel at once, then how many more there were.

    Each of those is a line at debug. A kind that was quiet for an interval begins anew.
    """

    def __init__(self) -> None:
        self._more: dict[tuple[str, str], int] = {}  # since the last line, by tunnel and result

    def tell(self, tunnel: TunnelSpec, result: str, client: str, why: str) -> None:
        """`result` is what the client was counted as."""
        kind = tunnel.id, result
        is_first = kind not in self._more
        self._more[kind] = 0 if is_first else self._more[kind] + 1
        level = _level(result) if is_first else logging.DEBUG
        _log(level, tunnel, f"{f'client {client}' if client else 'a client'} was refused: {why}")
        if is_first:
            self._sum_up_after(FIRST, tunnel, result)

    def _sum_up_after(self, pause: float, tunnel: TunnelSpec, result: str) -> None:
        def sum_up() -> None:
            if more := self._more.pop((tunnel.id, result)):
                clients = "1 more client was" if more == 1 else f"{more} more clients were"
                _log(_level(result), tunnel, f"{clients} refused in the last {pause:g} s ({result})")
                self._more[tunnel.id, result] = 0
                self._sum_up_after(min(2 * pause, LONGEST), tunnel, result)

        asyncio.get_running_loop().call_later(pause, sum_up)


def _level(result: str) -> int:
    return logging.WARNING if result == "limit" else logging.INFO


def _log(level: int, tunnel: TunnelSpec, text: str) -> None:
    fields = {"target": tunnel.target, "tunnel": tunnel.id, "labels": dict(tunnel.policy.labels) or None}
    log.log(level, "tunnel %s: %s", tunnel.id, text, extra=fields)
