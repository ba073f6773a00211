"""Probes: does what a tunnel leads to really answer? The registry, and what a probe is written against.

In: a way to open one fresh stream through the tunnel, what the file asks for, and the tunnel's route. Out: None, or a
`Failure` with `Reason.PROBE` and a sentence. A probe knows nothing of SSH, sockets or retries: the `ssh` room passes a
channel, sets the timeout by cancelling, and counts failures in a row.

A new probe is one file in this folder: its name is the word in `health.type`, and it has an
`async def probe(opener: Opener, health: Health, route: Route) -> Failure | None`. It is found by being there.

A SOCKS tunnel has no destination of its own: it is probed with `tcp` and an opener that returns once the link answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from reconciler.core.interfaces import Probe


def _found() -> Mapping[str, Probe]:
    names = [module.name for module in iter_modules(__path__)]
    return MappingProxyType({name: import_module(f"{__name__}.{name}").probe for name in names})


PROBES = _found()
