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
from reconciler.core.observed import Phase, Reason
from reconciler.report.http_routes import liveness_failure
from reconciler.runtime import loop
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.link import pool
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.pool import LinkPool
from reconciler.ssh.link.remote_listeners import RemoteListeners
from reconciler.ssh.listeners import listeners
from reconciler.ssh.listeners.acceptor import Acceptor
from reconciler.ssh.listeners.assigned_ports import AssignedPorts
from reconciler.ssh.listeners.listeners import Listeners
from reconciler.ssh.relay.connection_registry import ConnectionRegistry
from reconciler.ssh.relay.flows import Flows
from reconciler.ssh.relay.relay import Relay
from support.clients import Mover, all_move
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, local, remote, running, target
from support.wait import eventually, free_port

TIMES = 3  # that each fault is raised before it heals


class Planted(Exception):  # noqa: N818 - it stands for any of this program's own errors
    """What a planted fault raises."""


@dataclass
class Plant:
    """A fault at one place in the program: it raises so many times, then does what it should."""

    left: int = TIMES
    raised: int = 0

    def fire(self) -> None:
        if self.left:
            self.left -= 1
            self.raised += 1
            raise Planted(f"planted fault {self.raised}")


@contextlib.contextmanager
def planted(place: Any, name: str, plant: Plant, *, after: bool = False) -> Iterator[None]:
    """Let a function or method raise: before it does anything, or `after` it has."""
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
    """Two targets. `server` is edited; clients of its neighbours, and of `other`, move data all the time."""

    def __init__(self, tunnels: Running, sshd: Sshd, echo: EchoServer, ports: dict[str, int]) -> None:
        self.tunnels = tunnels
        self.sshd = sshd
        self.echo = echo
        self.ports = ports
        self.client: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None  # of `server/gone`

    def text(self, *, without: tuple[str, ...] = ("new",), description: str = "a", **fields: object) -> str:
        return world_text(self.sshd, self.echo, self.ports, without, description, **fields)

    async def works(self, *without: str) -> None:
        """Every tunnel but these is up and carries data, and nothing is left to do."""
        engine = self.tunnels.engine
        await eventually(lambda: engine.settled and engine.is_status_current, message=self.seen)
        await eventually(lambda: all(phase is Phase.UP for phase in self.tunnels.phases().values()), message=self.seen)
        for name, port in self.ports.items():
            if name not in without:
                assert await exchange("127.0.0.1", port) == b"ping", name

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


# --- what provokes each action ----------------------------------------------------------------------------------


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

ONCE = {"open: the port file", "close: the acceptor"}  # what is not tried again: the action is done without it

# Deeper inside: what provokes it, where it is, what it is called, and whether it raises after its work is done.
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
    "open: the bind": (add, listeners, "bind", False),
    "open: the acceptor": (add, listeners, "Acceptor", False),
    "open: the passwords": (add, ClientConnector, "check_passwords", False),
    "open: the port": (add, AssignedPorts, "bound", False),
    "open: the port file": (add, AssignedPorts, "write", False),
    "assign": (describe, Listeners, "assign", False),
    "assign: half done": (describe, Listeners, "assign", True),
    "assign: the clients": (describe, Flows, "hand_over", False),
    "assign: the records": (describe, ConnectionRegistry, "reapply", False),
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
    """Provoke the fault, and wait until all is as it was asked for."""
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
        if PROVOKED[kind] is not remove:  # of what is removed nothing is told any more
            assert told, "status says so"
            assert all("report it with the log" in change.verdict.message for change in told if change.verdict)
        counters = it.tunnels.engine.actuator.counters
        counted = [counters.target("server").failures, *(counters.failures(f"server/{name}") for name in it.ports)]
        if PROVOKED[kind] is not remove:
            assert sum(one[Reason.INTERNAL] for one in counted) >= TIMES


@pytest.mark.parametrize("name", INSIDE)
async def test_a_fault_inside_an_action_costs_nobody_else_anything(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    provoke, place, function, after = INSIDE[name]
    async with world(sshd, echo, tmp_path) as it:
        plant = Plant(1 if after or name in ONCE else TIMES)
        with planted(place, function, plant, after=after):
            await check(it, provoke, plant, caplog)


async def test_a_replaced_connection_whose_end_raises_is_ended_all_the_same(
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
async def test_a_report_that_raises_keeps_nothing_from_being_carried_out(
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


async def test_what_always_raises_is_tried_ever_less_often_and_does_not_keep_the_end_away(
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
            assert await exchange("127.0.0.1", it.ports["gone"]) == b"ping", "and what is there is told as it is"
            assert any(state.owner.id == "server/gone" for state in app.engine.actuator.observe().sockets.values())
        await it.works("new", "gone")


@pytest.mark.parametrize("look", ["_check_links", "_check_clients", "_check_probes", "_close_all_drained"])
async def test_a_look_that_always_raises_keeps_the_others_going(
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
