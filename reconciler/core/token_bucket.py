"""A tunnel's bandwidth: one allowance of bytes for one direction, shared by all of its clients.

Owns a token bucket. In: how many bytes just passed, and a clock. Out: for how many seconds the one that moved them is
to stop reading. It neither sleeps nor schedules.

Bytes are counted after they were read, so the bucket goes into debt instead of cutting a read short. Each client
waits until the debt *as it left it* is paid: clients take turns in the order in which they read, none starves, and each
is at most one read ahead. Over any time t all of them together move at most

    burst + rate * t + one read of each client,      burst = a tenth of a second's worth, at least 64 KiB
"""

from __future__ import annotations

from collections.abc import Callable

_LEAST_BURST = 65536  # one read of the relay: an idle tunnel's first answer is never slowed down


class Bucket:
    """`rate` in bytes a second; `now` tells monotonic seconds."""

    __slots__ = ("_at", "_now", "_rate", "_tokens")

    def __init__(self, rate: int, now: Callable[[], float]) -> None:
        self._rate = _positive(rate)
        self._now = now
        self._at = now()
        self._tokens = self.burst

    @property
    def burst(self) -> float:
        """How many bytes may pass at once after a pause."""
        return max(_LEAST_BURST, self._rate / 10)

    @property
    def rate(self) -> int:
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        """From now on. No debt takes longer than it did before; who waits may read once more, and is told anew."""
        self._refill()
        slowed = _positive(rate) / self._rate
        self._rate = rate
        if self._tokens < 0:
            self._tokens *= min(1.0, slowed)

    def take(self, count: int) -> float:
        """`count` more bytes have passed: the seconds to stop reading for, 0.0 to go on."""
        self._refill()
        self._tokens -= count
        return -self._tokens / self._rate if self._tokens < 0 else 0.0

    def _refill(self) -> None:
        now = self._now()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


def _positive(rate: int) -> int:
    if rate <= 0:
        raise ValueError(f"a rate of {rate} bytes a second lets nothing pass: no limit is no bucket")
    return rate
