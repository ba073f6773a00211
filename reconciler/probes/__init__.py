"""Health probes: check whether the destination of a tunnel answers. This module is the registry of probe types.

Input: a function that opens one new stream through the tunnel, the `health` settings, and the tunnel's route. Output:
None, or a `Failure` with `Reason.PROBE` and a message. A probe knows nothing of SSH, sockets or retries: the caller in
`ssh/` passes a channel, cancels the probe at its timeout, and counts failures in a row.

A new probe type is one module in this package, named like the value of `health.type`, with the function
`async def probe(opener: Opener, health: Health, route: Route) -> Failure | None`. It needs no registration.

A SOCKS tunnel has no destination of its own: it is probed with `tcp` and an opener that returns once the link answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from reconciler.core.interfaces import Probe


def _discover() -> Mapping[str, Probe]:
    names = [module.name for module in iter_modules(__path__)]
    return MappingProxyType({name: import_module(f"{__name__}.{name}").probe for name in names})


PROBES = _discover()
