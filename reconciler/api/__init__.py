"""Tunnels for Python programs with an event loop; `reconciler.blocking` has the same names in calls that block."""

from reconciler.api.errors import (
    BlockEndedError,
    NoPortError,
    ReadTimeoutError,
    TunnelsNotUpError,
    WrongContextError,
)
from reconciler.api.events import ConfigLoaded, EventsLost, EventStream, Notice, NoticeKind, PhaseChanged, TunnelEvent
from reconciler.api.results import Applied, ChangedFields, TunnelState
from reconciler.api.source import Source
from reconciler.api.tunnels import Tunnels, open_tunnels
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError, Problem
from reconciler.core.observed import Phase, Reason
from reconciler.core.overlay import NoSuchTunnelError
from reconciler.core.text.errors import TunnelsError

__all__ = [
    "Applied",
    "BlockEndedError",
    "ChangedFields",
    "ConfigError",
    "ConfigLoaded",
    "EventStream",
    "EventsLost",
    "NoPortError",
    "NoSuchTunnelError",
    "Notice",
    "NoticeKind",
    "Options",
    "Phase",
    "PhaseChanged",
    "Problem",
    "ReadTimeoutError",
    "Reason",
    "Source",
    "TunnelEvent",
    "TunnelState",
    "Tunnels",
    "TunnelsError",
    "TunnelsNotUpError",
    "WrongContextError",
    "open_tunnels",
]
