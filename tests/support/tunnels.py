"""Runs the program inside the test on a real file: `async with running(directory, text) as tunnels`.

Input: a directory and the text of tunnels.yaml. Output: `Running`, which edits the file and waits for the result.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reconciler.config.load import Config
from reconciler.core.interfaces import Clock
from reconciler.core.observed import Now, Phase
from reconciler.core.status import Verdict
from reconciler.report.changes import Change
from reconciler.runtime.app import App
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import TunnelClients
from support.wait import WITHIN, eventually


class Server(Protocol):
    """The attributes that all SSH servers of `support` have."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def user(self) -> str: ...

    @property
    def client_key(self) -> Path: ...

    @property
    def known_hosts(self) -> Path: ...


def target(server: Server, name: str = "server", **fields: object) -> str:
    """Return the lines of a target that logs in to this server, up to its tunnels.

    A field that is None is left out.
    """
    known = {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "privateKey": server.client_key,
        "knownHosts": server.known_hosts,
        **fields,
    }
    lines = "".join(f"    {key}: {value}\n" for key, value in known.items() if value is not None)
    return f"  {name}:\n{lines}    tunnels:\n"


def file(server: Server, *tunnels: str, **fields: object) -> str:
    """Return a file with one target named "server" and these tunnels."""
    return "targets:\n" + target(server, "server", **fields) + "".join(tunnels)


def tunnel(name: str, kind: str, **fields: object) -> str:
    """Return the line of a tunnel."""
    more = "".join(f", {key}: {value}" for key, value in fields.items())
    return f"      - {{name: {name}, type: {kind}{more}}}\n"


def local(name: str, port: int | str, to: int, **fields: object) -> str:
    """Return the line of a local forward to a port of this machine."""
    return tunnel(name, "local", localPort=port, remoteHost="127.0.0.1", remotePort=to, **fields)


def remote(name: str, port: int, to: int, **fields: object) -> str:
    """Return the line of a remote forward to a port of this machine."""
    return tunnel(name, "remote", remotePort=port, localHost="127.0.0.1", localPort=to, **fields)


def socks(name: str, port: int, **fields: object) -> str:
    """Return the line of a SOCKS tunnel."""
    return tunnel(name, "socks", localPort=port, **fields)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A clock that is `seconds` ahead of another one. The wall-clock time is the same."""

    clock: Clock
    seconds: float

    def now(self) -> Now:
        now = self.clock.now()
        return Now(now.mono + self.seconds, now.wall)


class Running:
    """The running program and its file."""

    def __init__(self, file: Path, app: App, changes: list[Change]) -> None:
        self.file = file
        self.app = app
        self.engine = app.engine
        self.changes = changes

    def edit(self, text: str) -> None:
        """Save the file as most editors do: write a new file and rename it over the old one."""
        beside = self.file.with_name(".edited")
        beside.write_text(text)
        beside.replace(self.file)

    def restart(self, target: str) -> None:
        """Restart the target by make before break."""
        self.engine.restart([target], "the test wants it")

    def verdict(self, tunnel: str) -> Verdict | None:
        """Return the verdict of the tunnel, None while it has none."""
        judgement = self.engine.status
        found = [one.verdict for one in judgement.tunnels if one.id == tunnel] if judgement else []
        return found[0] if found else None

    def bound(self, tunnel: str) -> str:
        """Return the bound address of the tunnel, or the configured one."""
        assert self.engine.status is not None
        return next(one.bound for one in self.engine.status.tunnels if one.id == tunnel)

    def bound_port(self, tunnel: str) -> int:
        return int(self.bound(tunnel).rpartition(":")[2])

    def meter(self, tunnel: str) -> TunnelClients:
        """Return the counters of the tunnel's clients; all are 0 before the first client."""
        return self.engine.actuator.records.tunnel(tunnel).clients

    def results(self, tunnel: str) -> Mapping[str, int]:
        """Return the number of clients by result."""
        return {str(result): count for result, count in self.meter(tunnel).results.items()}

    @property
    def links(self) -> list[Link]:
        """The live SSH connections, the oldest first."""
        return list(self.engine.actuator.links.values())

    def set_forward(self, seconds: float) -> None:
        """Move the clock of the planner forward."""
        self.engine.loop._clock = _Ahead(self.engine.loop._clock, seconds)
        self.engine.loop.wake()

    async def replaced(self, links: list[Link]) -> None:
        """Wait until other connections have replaced these and the status is made from them."""
        old = {link.number for link in links}

        def others() -> bool:
            judged = (
                {number for one in self.engine.status.targets for number in one.links} if self.engine.status else set()
            )
            return bool(judged) and not judged & old and not self.engine.actuator.links.keys() & old

        await eventually(others, message="new connections")

    async def no_client_is_connected(self) -> None:
        """Wait until no client and no channel of a client is left."""
        meters = [one.clients for one in self.engine.actuator.records.tunnels()]
        await eventually(lambda: all(m.active == 0 and m.held == 0 for m in meters), message="no client is left")
        await eventually(lambda: not any(link.channels for link in self.links), message="no channel is left")

    @contextlib.asynccontextmanager
    async def nothing_left_behind(self) -> AsyncIterator[None]:
        """Check that the block leaves no client, channel, window, task or descriptor behind."""
        await self.no_client_is_connected()
        tasks, descriptors = _tasks_for_clients(), _descriptors()
        yield
        await self.no_client_is_connected()
        try:
            await eventually(lambda: len(_tasks_for_clients()) <= len(tasks))
        except AssertionError:
            raise AssertionError(f"tasks are left: {tasks} became {_tasks_for_clients()}") from None
        try:
            await eventually(lambda: len(_descriptors()) <= len(descriptors))
        except AssertionError:
            raise AssertionError(f"descriptors are left: {descriptors} became {_descriptors()}") from None
        await eventually(lambda: not any(link.channels.reserved for link in self.links), message="no window is left")

    def phases(self) -> Mapping[str, Phase]:
        """Return the phase of each tunnel."""
        return {one.id: one.verdict.phase for one in self.engine.status.tunnels} if self.engine.status else {}

    async def until(self, tunnel: str, phase: Phase, within: float = WITHIN) -> Verdict:
        """Wait until the tunnel is in the phase, and return its verdict."""

        def reached() -> bool:
            verdict = self.verdict(tunnel)
            return verdict is not None and verdict.phase is phase

        await eventually(reached, within=within, message=lambda: f"{tunnel} is {phase}; it is {self.verdict(tunnel)}")
        verdict = self.verdict(tunnel)
        assert verdict is not None
        return verdict

    async def all_up(self, *tunnels: str, within: float = WITHIN) -> None:
        """Wait until exactly these tunnels exist and are up; without names, until all tunnels are up."""

        def reached() -> bool:
            phases = self.phases()
            named = not tunnels or phases.keys() == set(tunnels)
            return bool(phases) and named and all(phase is Phase.UP for phase in phases.values())

        await eventually(reached, within=within, message=lambda: f"all are up: {self.phases()}")


def _tasks_for_clients() -> list[str]:
    """Return the names of the running coroutines of the ssh package and asyncssh."""
    codes = [getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()]
    return [code.co_name for code in codes if code is not None and "ssh/" in code.co_filename]


def _descriptors() -> list[str]:
    """The open descriptors without those of the file watcher, which may restart at any time."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(str(descriptor.readlink()))
    return sorted(one for one in found if not one.startswith("anon_inode:"))


@contextlib.asynccontextmanager
async def running(directory: Path, text: str) -> AsyncIterator[Running]:
    """Run the program on a file with this text, and shut it down at the end of the block."""
    file = directory / "tunnels.yaml"
    file.write_text(text)
    changes: list[Change] = []
    app = App(Config([file], environ={"HOME": str(directory)}), on_change=changes.append)
    task = asyncio.create_task(app.run())
    try:
        yield Running(file, app, changes)
    finally:
        app.end()
        app.end()
        assert await asyncio.wait_for(task, WITHIN) == 0
