"""Log lines about refused clients, and about clients that an edit cut.

Owns the timers that limit the log lines about refusals. Whether a client is allowed is decided in `core/rules/`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from reconciler.core.observed import ClientResult
from reconciler.core.spec import TunnelSpec

log = logging.getLogger(__name__)

FIRST, LONGEST = 10.0, 600.0  # seconds between two log lines about refusals of one kind; doubled each time
REASONS_LISTED = 3  # at most, in the line about clients that an edit cut


class RefusalLog:
    """Logs refused clients: the first of each tunnel and result at once, then a count at growing intervals.

    Each later one is also a line at debug level. An interval without a refusal resets the tunnel and result.
    """

    def __init__(self) -> None:
        self._more: dict[tuple[str, ClientResult], int] = {}  # since the last line, by tunnel and result

    def report(self, tunnel: TunnelSpec, result: ClientResult, client: str, why: str) -> None:
        """Log one refused client. `result`: the result that it was counted under."""
        kind = tunnel.id, result
        is_first = kind not in self._more
        self._more[kind] = 0 if is_first else self._more[kind] + 1
        level = _level(result) if is_first else logging.DEBUG
        _log(level, tunnel, f"{f'client {client}' if client else 'a client'} was refused: {why}")
        if is_first:
            self._sum_up_after(FIRST, tunnel, result)

    def _sum_up_after(self, pause: float, tunnel: TunnelSpec, result: ClientResult) -> None:
        def sum_up() -> None:
            if more := self._more.pop((tunnel.id, result)):
                clients = "1 more client was" if more == 1 else f"{more} more clients were"
                _log(_level(result), tunnel, f"{clients} refused in the last {pause:g} s ({result})")
                self._more[tunnel.id, result] = 0
                self._sum_up_after(min(2 * pause, LONGEST), tunnel, result)

        asyncio.get_running_loop().call_later(pause, sum_up)


def cut_summary(cut: Counter[str]) -> str:
    """Return one line about clients that an edit cut, with the most common reasons."""
    count = cut.total()
    reasons = [
        f"{why} ({times} of {count})" if times < count else why for why, times in cut.most_common(REASONS_LISTED)
    ]
    summary = f"{'1 client' if count == 1 else f'{count} clients'}: {'; '.join(reasons)}"
    return f"{summary}; and others" if len(cut) > REASONS_LISTED else summary


def _level(result: ClientResult) -> int:
    return logging.WARNING if result is ClientResult.LIMIT else logging.INFO


def _log(level: int, tunnel: TunnelSpec, text: str) -> None:
    fields = {"target": tunnel.target, "tunnel": tunnel.id, "labels": dict(tunnel.policy.labels) or None}
    log.log(level, "tunnel %s: %s", tunnel.id, text, extra=fields)
