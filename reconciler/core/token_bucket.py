"""The bandwidth limit of a tunnel: a token bucket for one direction, shared by all clients.

Input: the number of bytes that just passed, and a clock. Output: for how many seconds the client that moved them must
stop reading. The bucket neither sleeps nor schedules.

Bytes are counted after they are read, so the bucket goes into debt instead of cutting a read short. Each client waits
until the debt *at the time of its own read* is paid. Clients thus take turns in the order in which they read, none
starves, and each is at most one read ahead. Over any time t all clients together move at most

    burst + rate * t + one read for each client,      burst = a tenth of a second of `rate`, at least 64 KiB
"""

from __future__ import annotations

from collections.abc import Callable

_LEAST_BURST = 65536  # one read of the relay, so that the first response of an idle tunnel is not delayed


class Bucket:
    """A token bucket. `rate` is in bytes per second; `now` returns monotonic seconds."""

    __slots__ = ("_at", "_now", "_rate", "_tokens")

    def __init__(self, rate: int, now: Callable[[], float]) -> None:
        self._rate = _positive(rate)
        self._now = now
        self._at = now()
        self._tokens = self.burst

    @property
    def burst(self) -> float:
        """The number of bytes that may pass at once after a pause."""
        return max(_LEAST_BURST, self._rate / 10)

    @property
    def rate(self) -> int:
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        """Change the rate. An existing debt takes no longer to pay; a throttled client may read once more."""
        self._refill()
        slowed = _positive(rate) / self._rate
        self._rate = rate
        if self._tokens < 0:
            self._tokens *= min(1.0, slowed)

    def take(self, count: int) -> float:
        """Count bytes that have passed. Return for how many seconds to stop reading, 0.0 to continue."""
        self._refill()
        self._tokens -= count
        return -self._tokens / self._rate if self._tokens < 0 else 0.0

    def _refill(self) -> None:
        now = self._now()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


def _positive(rate: int) -> int:
    if rate <= 0:
        raise ValueError(f"rate is {rate} bytes per second: expected a positive number")
    return rate
