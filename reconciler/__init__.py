"""Reads tunnels.yaml and keeps SSH tunnels matching it: opens, closes, changes and restarts them.

    async with reconciler.open_tunnels("tunnels.yaml") as tunnels:
        await asyncpg.connect(host="127.0.0.1", port=tunnels.port("prod/postgres"))

The names are those of `reconciler.api`. `reconciler.blocking` is for programs without an event loop. Both are imported
when a name is used: `import reconciler` alone imports nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # that of `typing` takes longer to import than all the rest of this module

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
    "__version__",
    "blocking",
    "open_tunnels",
]

if TYPE_CHECKING:
    from reconciler import blocking
    from reconciler.api import (
        Applied,
        BlockEndedError,
        ChangedFields,
        ConfigError,
        ConfigLoaded,
        EventsLost,
        EventStream,
        NoPortError,
        NoSuchTunnelError,
        Notice,
        NoticeKind,
        Options,
        Phase,
        PhaseChanged,
        Problem,
        ReadTimeoutError,
        Reason,
        Source,
        TunnelEvent,
        Tunnels,
        TunnelsError,
        TunnelsNotUpError,
        TunnelState,
        WrongContextError,
        open_tunnels,
    )
else:

    def __getattr__(name: str) -> object:
        """Import a name when it is used for the first time."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415

        if name == "blocking":
            return import_module("reconciler.blocking")
        return getattr(import_module("reconciler.api"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
