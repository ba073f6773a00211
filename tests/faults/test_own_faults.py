"""Injected faults of this program itself: each action raises in turn while clients move data.

An exception ends only its action. It is logged with its traceback and shown with the reason `internal`. The action is
retried and succeeds when it no longer raises. Clients of other tunnels lose no byte.
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
from reconciler.report.http_routes import ailment
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

TIMES = 3  # how often each fault is raised before the action succeeds


class Planted(Exception):  # noqa: N818 - stands for any exception of this program
    """The exception of an injected fault."""


@dataclass
class Plant:
    """An injected fault in one function: it raises `left` more times, then the function works."""

    left: int = TIMES
    raised: int = 0

    def fire(self) -> None:
        if self.left:
            self.left -= 1
            self.raised += 1
            raise Planted(f"planted fault {self.raised}")


@contextlib.contextmanager
def planted(place: Any, name: str, plant: Plant, *, after: bool = False) -> Iterator[None]:
    """Make a function or method raise before its work, or after it with `after`."""
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
    """Two targets. The tests edit `server`; clients of its other tunnels and of `other` move data all the time."""

    def __init__(self, tunnels: Running, sshd: Sshd, echo: EchoServer, ports: dict[str, int]) -> None:
        self.tunnels = tunnels
        self.sshd = sshd
        self.echo = echo
        self.ports = ports
        self.client: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None  # of `server/gone`

    def text(self, *, without: tuple[str, ...] = ("new",), description: str = "a", **fields: object) -> str:
        return world_text(self.sshd, self.echo, self.ports, without, description, **fields)

    async def works(self, *without: str) -> None:
        """Wait until every other tunnel is up and carries data, and the plan is empty."""
        await eventually(lambda: self.tunnels.app.settled and self.tunnels.app.judged, message=self.seen)
        await eventually(lambda: all(phase is Phase.UP for phase in self.tunnels.phases().values()), message=self.seen)
        for name, port in self.ports.items():
            if name not in without:
                assert await exchange("127.0.0.1", port) == b"ping", name

    def seen(self) -> str:
        judgement = self.tunnels.app.judgement
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
        assert not tunnels.app.loop.broken_passes


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

ONCE = {"open: the port file", "close: the acceptor"}  # not retried: the action succeeds without this step

# Faults inside actions: what provokes the action, the module or class, the function, whether it raises after its work.
INSIDE: dict[str, tuple[Provoke, Any, str, bool]] = {
    "dial: the task": (restart, pool, "dial", False),
    "dial: the link is made": (restart, pool, "Link", False),
    "dial: after the link is made": (restart, LinkPool, "_ready", True),
    "dial: half begun": (restart, LinkPool, "dial", True),
    "retire": (restart, LinkPool, "retire", False),
    "retire: half done": (restart, LinkPool, "retire", True),
    "tune": (tune, Link, "tune", False),
    "tune: half done": (tune, Link, "tune", True),
    "open": (add, Listeners, "open", False),
    "open: half begun": (add, Listeners, "open", True),
    "open: the bind": (add, listeners, "bind", False),
    "open: the acceptor": (add, listeners, "Acceptor", False),
    "open: the passwords": (add, ClientConnector, "look_at_passwords", False),
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
    "close: held clients": (remove, ClientConnector, "turn_away", False),
    "drain": (remove, Flows, "drain", False),
    "cut": (remove, Flows, "cut", False),
    "cut: a client": (remove, Relay, "cut", False),
}


async def check(it: World, provoke: Provoke, plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    """Provoke the fault and wait until the desired state is reached."""
    without = provoke(it)
    await eventually(lambda: plant.raised > 0, message="the fault is raised")
    await eventually(lambda: not plant.left, message=lambda: f"it is tried again: {plant}; {it.seen()}")
    await it.works(*without)
    for name in set(without) - {"new"}:
        await eventually(partial(is_refused, it.ports[name]), message=f"{name} is closed")
    if "gone" in without:
        assert it.client is not None
        await eventually(lambda: it.tunnels.meter("server/gone").active == 0, message="its clients are cut")
    assert [one for one in caplog.records if one.exc_info and "a fault of this program" in one.getMessage()]


async def is_refused(port: int) -> bool:
    try:
        await exchange("127.0.0.1", port)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("kind", PROVOKED, ids=lambda kind: kind.__name__)
async def test_an_action_that_raises_is_retried(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type[Action]
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant, actuator = Plant(), it.tunnels.app.actuator
        apply = actuator.apply

        def raising(action: Action) -> None:
            if isinstance(action, kind):
                plant.fire()
            apply(action)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(actuator, "apply", raising)
            await check(it, PROVOKED[kind], plant, caplog)
        changes = [one for one in it.tunnels.changes if one.verdict and one.verdict.reason is Reason.INTERNAL]
        if PROVOKED[kind] is not remove:  # a removed tunnel has no status
            assert changes, "status reports the fault"
            assert all("please report it" in one.verdict.message for one in changes if one.verdict)
        counters = it.tunnels.app.actuator.counters
        counted = [counters.target("server").failures, *(counters.failures(f"server/{name}") for name in it.ports)]
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


@pytest.mark.parametrize("where", ["want", "observe"])
async def test_a_pass_that_raises_changes_nothing(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant, app = Plant(4), it.tunnels.app
        with planted(app.actuator, where, plant):
            it.tunnels.edit(it.text(without=()))
            await eventually(lambda: plant.raised > 1)
            assert "a fault of this program" in app.pulse().fault
            assert app.snapshot().pulse.fault
            assert not ailment(app.pulse()), "a restart would cost every tunnel"
            await eventually(lambda: not plant.left)
            await it.works()
        assert not app.pulse().fault
    assert caplog.text.count("Traceback") == 1, "a repeated fault has one traceback"


async def test_a_planner_that_raises_changes_nothing(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant = Plant(3)
        with planted(loop, "make_plan", plant):
            it.tunnels.edit(it.text(without=()))
            await eventually(lambda: not plant.left)
            await it.works()


@pytest.mark.parametrize("what", ["journal", "teller", "on_change"])
async def test_a_report_that_raises_does_not_stop_actions(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, what: str
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        app, plant = it.tunnels.app, Plant(2)
        place, name = {
            "journal": (app._journal, "note"),
            "teller": (app._change_logger, "tell"),
            "on_change": (app, "_on_change"),
        }[what]
        with planted(place, name, plant):
            it.tunnels.edit(it.text(without=()))
            await eventually(lambda: not plant.left)
            await it.works()


async def test_an_action_that_always_raises_is_retried_with_backoff(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant = Plant(10**9)
        app = it.tunnels.app
        with planted(app.actuator._sockets, "close", plant):
            passes = app.loop.passes.frozen().count
            it.tunnels.edit(it.text(without=("new", "gone")))
            await eventually(lambda: plant.raised >= 4)
            assert app.loop.passes.frozen().count - passes < 200, "the loop does not spin"
            assert len([one for one in caplog.records if one.exc_info]) == 1, "one traceback"
            assert await exchange("127.0.0.1", it.ports["gone"]) == b"ping", "the socket is still open and observed"
            assert any(state.owner.id == "server/gone" for state in app.actuator.observe().sockets.values())
        await it.works("new", "gone")


@pytest.mark.parametrize("look", ["_look_at_links", "_look_at_clients", "_look_at_probes", "_settle_all"])
async def test_a_periodic_check_that_always_raises_does_not_stop_the_others(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, look: str
) -> None:
    async with world(sshd, echo, tmp_path) as it:
        plant, seen = Plant(10**9), list[str]()
        actuator = it.tunnels.app.actuator
        with pytest.MonkeyPatch.context() as patch:
            for other in ("_look_at_links", "_look_at_clients", "_look_at_probes", "_settle_all"):
                patch.setattr(actuator, other, plant.fire if other == look else partial(seen.append, other))
            await eventually(lambda: plant.raised >= 2)
        assert len(set(seen)) == 3
        assert len([one for one in caplog.records if one.exc_info and one.levelno >= logging.ERROR]) == 1
