"""The pods of a StatefulSet, as processes: `tunnels run` with TUNNELS_SHARD, one for each ordinal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from integration.commands import WITHIN, process
from support.endpoints import Client, client_of
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port


@dataclass(frozen=True, slots=True)
class Pod:
    """A process that serves one shard, and a client of its HTTP endpoint."""

    started: asyncio.subprocess.Process
    client: Client

    async def ports(self) -> dict[str, int]:
        """Return the port of each target that it serves, once all are up; {} before."""
        try:
            status = await self.client.get("/api/v1/status")
        except aiohttp.ClientConnectionError:
            return {}
        if not status["config"]["converged"] or not all(one["up"] for one in status["tunnels"]):
            return {}
        return {one["target"]: int(one["listen"].rpartition(":")[2]) for one in status["tunnels"]}

    async def targets(self) -> set[str]:
        """Wait until all its targets are up, check that each carries data, and return their names."""
        ports = await eventually(self.ports, within=WITHIN, message="all targets of the shard are up")
        answers = await asyncio.gather(*(exchange("127.0.0.1", port) for port in ports.values()))
        assert set(answers) == {b"ping"}
        return set(ports)


class Replicas:
    """The pods of a StatefulSet `tunnels`. What a pod knows of its shard is its name and a variable."""

    def __init__(self, file: Path, stack: contextlib.AsyncExitStack) -> None:
        self._file = file
        self._stack = stack
        self.pods: dict[int, Pod] = {}

    async def start(self, ordinal: int, count: int) -> None:
        address = f"127.0.0.1:{free_port()}"
        options = ("--listen", address, "--control", "none", "--log-level", "error")
        environ = {"POD_NAME": f"tunnels-{ordinal}", "TUNNELS_SHARD": str(count)}
        started = await self._stack.enter_async_context(process("run", *options, self._file, env=environ))
        self.pods[ordinal] = Pod(started, await self._stack.enter_async_context(client_of(address=address)))

    async def start_all(self, ordinals: Iterable[int], count: int) -> None:
        await asyncio.gather(*(self.start(ordinal, count) for ordinal in ordinals))

    async def kill(self, ordinal: int) -> None:
        pod = self.pods.pop(ordinal)
        pod.started.kill()
        await pod.started.wait()

    async def restart_all(self, ordinals: Iterable[int], count: int) -> None:
        for ordinal in ordinals:
            await self.kill(ordinal)
            await self.start(ordinal, count)

    async def placement(self) -> dict[int, set[str]]:
        """Return the targets that each pod serves."""
        served = await asyncio.gather(*(pod.targets() for pod in self.pods.values()))
        return dict(zip(self.pods, served, strict=True))


@contextlib.asynccontextmanager
async def replicas(sshd: Sshd, echo: EchoServer, directory: Path, targets: Sequence[str]) -> AsyncIterator[Replicas]:
    """Yield the pods, none of which is started. Each target has one tunnel, to the echo server."""
    file = directory / "tunnels.yaml"
    file.write_text("targets:\n" + "".join(target(sshd, name) + local("echo", 0, echo.port) for name in targets))
    async with contextlib.AsyncExitStack() as stack:
        yield Replicas(file, stack)
