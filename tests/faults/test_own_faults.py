"""Faults of this program itself, planted: each action raises in turn while clients move data.

What raises ends that action and nothing else. It is logged with its traceback, shown with the reason `internal`, tried
again, and done when it does not raise any more. No client of a neighbour's loses a byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.observed import LinkPhase, Phase, Reason, SocketPhase
from reconciler.report.http_routes import liveness_failure
from reconciler.runtime import loop
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.clients.destination_health import DestinationHealth
from reconciler.ssh.clients.flows import Flows
from reconciler.ssh.link import pool
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.pool import LinkPool
from reconciler.ssh.link.remote_listeners import RemoteListeners
from reconciler.ssh.listeners import local_opener
from reconciler.ssh.listeners.acceptor import Acceptor
from reconciler.ssh.listeners.listeners import Listeners
from reconciler.ssh.listeners.port_files import PortFiles
from reconciler.ssh.relay.relay import Relay
from support.clients import Mover, all_move
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, local, remote, running, target
from support.wait import eventually, free_port

TIMES = 3  # that each fault is raised before it heals


class Planted(Exception):  # noqa: N818 - it stands for any of this program's own errors
    """The exception of a planted fault."""


@dataclass
class Plant:
    """A fault at one place in the program. It raises a number of times, then works."""

    left: int = TIMES
    raised: int = 0

    def fire(self) -> None:
        if self.left:
            self.left -= 1
            self.raised += 1
            raise Planted(f"planted fault {self.raised}")


@contextlib.contextmanager
def planted(place: Any, name: str, plant: Plant, *, after: bool = False) -> Iterator[None]:
    """Make a function or method raise before its work, or `after` it."""
    original = getattr(place, name)

    def raising(*arguments: Any, **options: Any) -> Any:
        if after:
            original(*arguments, **options)
        plant.fire()
        return None if after else original(*arguments, **options)

    async def raising_later(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        plant.fire()
        return await original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, raising_later if asyncio.iscoroutinefunction(original) else raising)
        yield


# --- the world --------------------------------------------------------------------------------------------------


class World:
    """Two targets. `server` is edited. Clients of its other tunnels and of `other` transfer data all the time."""

    def __init__(self, tunnels: Running, sshd: Sshd, echo: EchoServer, ports: dict[str, int]) -> None:
        self.tunnels = tunnels
        self.sshd = sshd
        self.echo = echo
        self.ports = ports
        self.client: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None  # of `server/gone`

    def text(self, *, without: tuple[str, ...] = ("new",), description: str = "a", **fields: object) -> str:
        return world_text(self.sshd, self.echo, self.ports, without, description, **fields)

    async def works(self, *without: str) -> None:
        """Wait until every other tunnel is up and carries data, and nothing is left to do."""
        await eventually(self._is_done, message=self.seen)
        await eventually(lambda: all(phase is Phase.UP for phase in self.tunnels.phases().values()), message=self.seen)
        for name, port in self.ports.items():
            if name not in without:
                assert await exchange("127.0.0.1", port) == b"ping", name

    def _is_done(self) -> bool:
        """Return True if nothing is left to do, and no link is dialled or has listeners to hand over."""
        engine = self.tunnels.engine
        observed = engine.actuator.observe()
        dialling = [link for link in observed.links if link.phase is LinkPhase.DIALING]
        carriers = {None, *(link.id for link in observed.links if link.phase is LinkPhase.READY)}
        handed_over = all(
            socket.phase is SocketPhase.BOUND and socket.link in carriers for socket in observed.sockets.values()
        )
        return engine.settled and engine.is_status_current and not dialling and handed_over

    def seen(self) -> str:
        judgement = self.tunnels.engine.status
        return f"it works: {judgement and [(one.id, one.verdict) for one in judgement.tunnels]}"


def world_text(
    sshd: Sshd, echo: EchoServer, ports: dict[str, int], without: tuple[str, ...], description: str, **fields: object
) -> str:
    lines = {
        "keep": local("keep", ports["keep"], echo.port),
        "back": remote("back", ports["back"], echo.port),
        "gone": local("gone", ports["gone"], echo.port, description=description, drainTimeout="300ms"),
        "backwards": remote("backwards", ports["backwards"], echo.port),
        "new": local("new", ports["new"], echo.port),
    }
    text = "targets:\n" + target(sshd, "server", **fields)
    text += "".join(line for name, line in lines.items() if name not in without)
    return text + target(sshd, "other") + local("other", ports["other"], echo.port)


@contextlib.asynccontextmanager
async def world(sshd: Sshd, echo: EchoServer, directory: Path) -> AsyncIterator[World]:
    ports = {name: free_port() for name in ("keep", "back", "gone", "backwards", "new", "other")}
    async with running(directory, world_text(sshd, echo, ports, ("new",), "a")) as tunnels:
        await tunnels.all_up()
        movers = [Mover(ports[name], pause=0.005) for name in ("keep", "back", "other")]
        await all_move(movers)
        async with connected("127.0.0.1", ports["gone"]) as client:
            it = World(tunnels, sshd, echo, ports)
            it.client = client
            yield it
            await all_move(movers)
        for mover in movers:
            await mover.end()
        assert not tunnels.engine.loop.failed_passes


# --- the edit that causes each action --------------------------------------------------------------------------------


def restart(it: World) -> tuple[str, ...]:
    it.tunnels.restart("server")
    return ("new",)


def tune(it: World) -> tuple[str, ...]:
    it.tunnels.edit(it.text(keepaliveInterval="7s"))
    return ("new",)


def add(it: World) -> tuple[str, ...]:
    it.tunnels.edit(it.text(without=()))
    return ()


def describe(it: World) -> tuple[str, ...]:
    it.tunnels.edit(it.text(description="b"))
    return ("new",)


def remove(it: World) -> tuple[str, ...]:
    it.tunnels.edit(it.text(without=("new", "gone", "backwards")))
    return ("new", "gone", "backwards")


Provoke = Callable[[World], tuple[str, ...]]

PROVOKED: dict[type[Action], Provoke] = {
    Dial: restart,
    Retire: restart,
    Move: restart,
    Tune: tune,
    Open: add,
    Assign: describe,
    Close: remove,
    Drain: remove,
    Cut: remove,
}

ONCE = {"open: the port file", "close: the acceptor"}  # not retried: the action succeeds without it

# Inside an action: the edit, the place, the name in the log, and whether it raises after its work.
INSIDE: dict[str, tuple[Provoke, Any, str, bool]] = {
    "dial: the task": (restart, pool, "dial", False),
    "dial: the link is made": (restart, pool, "Link", False),
    "dial: after the link is made": (restart, LinkPool, "_ready", True),
    "dial: half begun": (restart, LinkPool, "dial", True),
    "retire": (restart, LinkPool, "retire", False),
    "retire: half done": (restart, LinkPool, "retire", True),
    "tune": (tune, Link, "apply_settings", False),
    "tune: half done": (tune, Link, "apply_settings", True),
    "open": (add, Listeners, "open", False),
    "open: half begun": (add, Listeners, "open", True),
    "open: the bind": (add, local_opener, "bind", False),
    "open: the acceptor": (add, local_opener, "Acceptor", False),
    "open: the passwords": (add, DestinationHealth, "check_passwords", False),
    "open: the port": (add, Listeners, "_remember_port", False),
    "open: the port file": (add, PortFiles, "write", False),
    "assign": (describe, Listeners, "assign", False),
    "assign: half done": (describe, Listeners, "assign", True),
    "assign: the clients": (describe, Flows, "assign", False),
    "assign: the rules": (describe, ClientConnector, "reapply", False),
    "move": (restart, Listeners, "move", False),
    "move: half begun": (restart, Listeners, "move", True),
    "move: the request": (restart, RemoteListeners, "listen", False),
    "move: the cancel": (restart, RemoteListeners, "close", False),
    "close": (remove, Listeners, "close", False),
    "close: half begun": (remove, Listeners, "close", True),
    "close: the acceptor": (remove, Acceptor, "close", False),
    "close: the cancel": (remove, RemoteListeners, "close", False),
    "close: who waits": (remove, ClientConnector, "reject_waiting", False),
    "drain": (remove, Flows, "drain", False),
    "cut": (remove, Flows, "cut", False),
    "cut: a client": (remove, Relay, "cut", False),
}


async def check(it: World, provoke: Provoke, plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    """Cause the fault, and wait until the file is applied."""
    without = provoke(it)
    await eventually(lambda: plant.raised > 0, message="the fault is met")
    await eventually(lambda: not plant.left, message=lambda: f"it is tried again: {plant}; {it.seen()}")
    await it.works(*without)
    for name in set(without) - {"new"}:
        await eventually(partial(is_refused, it.ports[name]), message=f"{name} is closed")
    if "gone" in without:
        assert it.client is not None
        await eventually(lambda: it.tunnels.meter("server/gone").active == 0, message="its clients are cut")
    assert [one for one in caplog.records if one.exc_info and "internal error" in one.getMessage()]


async def is_refused(port: int) -> bool:
    try:
        await exchange("127.0.0.1", port)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("kind", PROVOKED, ids=lambda kind: kind.__name__)
async def test_an_action_that_raises_ends_alone_and_is_tried_again(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type[Action]
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant, actuator = Plant(), it.tunnels.engine.actuator
        apply = actuator.apply

        def raising(action: Action) -> None:
            if isinstance(action, kind):
                plant.fire()
            apply(action)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(actuator, "apply", raising)
            await check(it, PROVOKED[kind], plant, caplog)
        told = [change for change in it.tunnels.changes if change.verdict and change.verdict.reason is Reason.INTERNAL]
        if PROVOKED[kind] is not remove:  # a removed tunnel is no longer reported
            assert told, "status says so"
            assert all("report it with the log" in change.verdict.message for change in told if change.verdict)
        records = it.tunnels.engine.actuator.records
        counted = [records.target("server").failures, *(records.tunnel(f"server/{name}").failures for name in it.ports)]
        if PROVOKED[kind] is not remove:
            assert sum(one[Reason.INTERNAL] for one in counted) >= TIMES


@pytest.mark.parametrize("name", INSIDE)
async def test_a_fault_inside_an_action_affects_no_other_tunnel(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    provoke, place, function, after = INSIDE[name]
    async with world(sshd, echo, tmp_path) as it:
        plant = Plant(1 if after or name in ONCE else TIMES)
        with planted(place, function, plant, after=after):
            await check(it, provoke, plant, caplog)


async def test_a_replaced_connection_is_closed_although_its_close_raises(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, plant = free_port(), Plant()
    async with running(tmp_path, "targets:\n" + target(sshd) + local("echo", port, echo.port)) as tunnels:
        await tunnels.all_up()
        old = tunnels.links
        with planted(Link, "close", plant):
            tunnels.restart("server")
            await tunnels.replaced(old)
        assert not plant.left
        assert await exchange("127.0.0.1", port) == b"ping"


@pytest.mark.parametrize("where", ["set_desired", "observe"])
async def test_a_pass_that_raises_leaves_everything_as_it_is(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant, app = Plant(4), it.tunnels.app
        with planted(app.engine.actuator, where, plant):
            it.tunnels.edit(it.text(without=()))
            await eventually(lambda: plant.raised > 1)
            assert "internal error" in app.liveness().fault
            assert app.snapshot().liveness.fault
            assert not liveness_failure(app.liveness()), "a restart would cost every tunnel"
            await eventually(lambda: not plant.left)
            await it.works()
        assert not app.liveness().fault
    assert caplog.text.count("Traceback") == 1, "once, however often it comes"


async def test_a_planner_that_raises_leaves_everything_as_it_is(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant = Plant(3)
        with planted(loop, "make_plan", plant):
            it.tunnels.edit(it.text(without=()))
            await eventually(lambda: not plant.left)
            await it.works()


@pytest.mark.parametrize("what", ["journal", "teller", "on_change"])
async def test_a_report_that_raises_does_not_stop_the_actions(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, what: str
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        app, plant = it.tunnels.app, Plant(2)
        place, name = {
            "journal": (app._change_tracker, "update"),
            "teller": (app._change_logger, "log_changes"),
            "on_change": (app, "_on_change"),
        }[what]
        with planted(place, name, plant):
            it.tunnels.edit(it.text(without=()))
            await eventually(lambda: not plant.left)
            await it.works()


async def test_an_action_that_always_raises_backs_off_and_does_not_delay_the_exit(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant = Plant(10**9)
        app = it.tunnels.app
        with planted(app.engine.actuator._listeners, "close", plant):
            passes = app.engine.loop.passes.frozen().count
            it.tunnels.edit(it.text(without=("new", "gone")))
            await eventually(lambda: plant.raised >= 4)
            assert app.engine.loop.passes.frozen().count - passes < 200, "it does not plan again and again"
            assert len([one for one in caplog.records if one.exc_info]) == 1, "one traceback"
            assert await exchange("127.0.0.1", it.ports["gone"]) == b"ping", "the status is still correct"
            assert any(state.owner.id == "server/gone" for state in app.engine.actuator.observe().sockets.values())
        await it.works("new", "gone")


@pytest.mark.parametrize("look", ["_check_links", "_check_clients", "_check_probes", "_close_all_drained"])
async def test_a_periodic_check_that_always_raises_does_not_stop_the_others(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, look: str
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant, seen = Plant(10**9), list[str]()
        actuator = it.tunnels.engine.actuator
        with pytest.MonkeyPatch.context() as patch:
            for other in ("_check_links", "_check_clients", "_check_probes", "_close_all_drained"):
                patch.setattr(actuator, other, plant.fire if other == look else partial(seen.append, other))
            await eventually(lambda: plant.raised >= 2)
        assert len(set(seen)) == 3
        assert len([one for one in caplog.records if one.exc_info and one.levelno >= logging.ERROR]) == 1
