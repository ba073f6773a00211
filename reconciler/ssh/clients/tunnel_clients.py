"""The record of one tunnel's clients: counters, the state of its destination, and the limits that they share.

Lasts as long as the tunnel is desired or has clients; the connector drops it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from reconciler.core.observed import ClientResult, Destination
from reconciler.core.rules.guess_limiter import GuessLimiter
from reconciler.core.token_bucket import Bucket


@dataclass(slots=True)
class TunnelClients:
    """The clients of one tunnel.

    sent, received   bytes towards the SSH server and from it
    active           how many clients have a link
    held             how many clients wait for one
    results          how many attempts to connect ended with each result
    destination      the last dial of its destination, if that failed; or why its users' passwords cannot be read
    guesses          limits the password guesses
    """

    sent: int = 0
    received: int = 0
    active: int = 0
    held: int = 0
    results: Counter[ClientResult] = field(default_factory=Counter)
    destination: Destination | None = None
    guesses: GuessLimiter = field(default_factory=GuessLimiter)
    _buckets: tuple[Bucket, Bucket] | None = None

    def throttles(self, rate: int) -> tuple[Bucket, Bucket] | tuple[None, None]:
        """Return the buckets towards the server and from it, which its clients share, at this rate; None each for 0."""
        if not rate:
            self._buckets = None
            return None, None
        if self._buckets is None:
            self._buckets = (Bucket(rate, time.monotonic), Bucket(rate, time.monotonic))
        for bucket in self._buckets:
            bucket.rate = rate
        return self._buckets


ByTunnel = defaultdict[str, TunnelClients]  # by tunnel id; `get` creates no record
