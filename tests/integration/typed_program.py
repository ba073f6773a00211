"""A program as a user writes it. Type checkers must know the type of everything in it."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never, assert_type

import reconciler
from reconciler import (
    Applied,
    ChangedFields,
    ConfigLoaded,
    EventsLost,
    Notice,
    NoticeKind,
    Phase,
    PhaseChanged,
    Problem,
    Reason,
    TunnelEvent,
    Tunnels,
    TunnelsError,
    TunnelState,
    open_tunnels,
)
from reconciler.blocking import BlockingTunnels
from reconciler.blocking import open_tunnels as open_blocking


async def asynchronous(path: Path) -> None:
    async with open_tunnels(path, within=5) as tunnels:
        assert_type(tunnels, Tunnels)
        assert_type(tunnels.port("prod/db"), int)
        assert_type(tunnels["prod/db"], TunnelState)
        assert_type(tunnels.all(), tuple[TunnelState, ...])
        await tunnels.until_up()
        applied = await tunnels.apply({"targets": {"prod": {"host": "h", "tunnels": [{"local": "0:db:5432"}]}}})
        assert_type(applied, Applied)
        assert_type(await tunnels.restart("prod", now=True), tuple[TunnelState, ...])
        assert_type(await tunnels.pause("prod/*", 60), tuple[TunnelState, ...])
        assert_type(await tunnels.resume("prod"), tuple[TunnelState, ...])
        async for event in tunnels.events(within=1.5):
            handle(event)
        tunnels.port(1)  # type: ignore[arg-type]
        await tunnels.apply(1)  # type: ignore[arg-type]
        applied.opened = ()  # type: ignore[misc]


def blocking(path: str) -> None:
    try:
        with open_blocking(path) as tunnels:
            assert_type(tunnels, BlockingTunnels)
            assert_type(tunnels.port("prod/db"), int)
            result(tunnels.apply(path))
            state(tunnels.restart("prod")[0])
            assert_type(tunnels.pause("prod"), tuple[TunnelState, ...])
            assert_type(tunnels.resume("prod", within=1), tuple[TunnelState, ...])
            for event in tunnels.events():
                handle(event)
    except reconciler.ConfigError as error:
        assert_type(error.problems, tuple[Problem, ...])
    except reconciler.TunnelsNotUpError as error:
        assert_type(error.tunnels, tuple[TunnelState, ...])
    except TunnelsError as error:
        print(error)


def handle(event: TunnelEvent) -> None:
    match event:
        case PhaseChanged(id=tunnel, phase=phase, before=before, reason=reason, message=message, at=at):
            assert_type(phase, Phase | None)
            assert_type(before, Phase | None)
            assert_type(reason, Reason | None)
            assert_type((tunnel, message, at), tuple[str, str, float])
        case Notice(kind=kind):
            assert_type(kind, NoticeKind)
        case ConfigLoaded(revision=revision, rejected=rejected):
            assert_type(revision, str)
            assert_type(rejected, tuple[Problem, ...])
        case EventsLost(count=count):
            assert_type(count, int)
        case _:
            assert_never(event)


def result(applied: Applied) -> None:
    assert_type(applied.opened, tuple[str, ...])
    assert_type(applied.closed, tuple[str, ...])
    assert_type(applied.changed, tuple[ChangedFields, ...])
    assert_type(applied.rejected, tuple[Problem, ...])
    assert_type(applied.converged, bool)
    applied.raise_if_rejected()


def state(tunnel: TunnelState) -> None:
    assert_type(tunnel.phase, Phase)
    assert_type(tunnel.reason, Reason | None)
    assert_type(tunnel.port, int | None)
    assert_type(tunnel.is_up, bool)
    assert_type((tunnel.id, tunnel.message, tunnel.address, tunnel.destination), tuple[str, str, str, str])


print(reconciler.__version__, reconciler.blocking.open_tunnels)
reconciler.no_such_name  # type: ignore[attr-defined]  # noqa: B018
