"""The tcp probe: succeeds if the destination accepts a connection. It sends and reads nothing."""

from __future__ import annotations

from reconciler.core.interfaces import Opener
from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Health, Route


async def probe(opener: Opener, _health: Health, _route: Route) -> Failure | None:
    stream = await opener()
    if isinstance(stream, Failure):
        return Failure(Reason.PROBE, stream.what, stream.advice)
    stream.close()
    return None
