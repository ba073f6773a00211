"""Processes that share one file with `--shard`: each target is served once, also after a kill and with more shards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from integration.commands import WITHIN, process, program
from reconciler.core.shard import Shard
from support.endpoints import Client, client_of
from support.metrics import complaints, scrape
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port

ROOT = Path(__file__).parents[2]
TARGETS = [f"site-{number:02}" for number in range(12)]


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
    """The pods of a StatefulSet `tunnels`, as processes. What a pod knows of its shard is its name and a variable."""

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

    async def placement(self) -> dict[int, set[str]]:
        """Return the targets that each pod serves."""
        served = await asyncio.gather(*(pod.targets() for pod in self.pods.values()))
        return dict(zip(self.pods, served, strict=True))


@contextlib.asynccontextmanager
async def replicas(sshd: Sshd, echo: EchoServer, directory: Path) -> AsyncIterator[Replicas]:
    file = directory / "tunnels.yaml"
    file.write_text("targets:\n" + "".join(target(sshd, name) + local("echo", 0, echo.port) for name in TARGETS))
    async with contextlib.AsyncExitStack() as stack:
        yield Replicas(file, stack)


def served_once(placement: dict[int, set[str]]) -> bool:
    return Counter(name for names in placement.values() for name in names) == Counter(TARGETS)


async def test_each_target_is_served_once_after_a_kill_and_with_a_fourth_shard(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    async with replicas(sshd, echo, tmp_path) as them:
        await them.start_all(range(3), 3)
        of_three = await them.placement()
        assert served_once(of_three)

        await them.kill(1)
        assert await them.placement() == {0: of_three[0], 2: of_three[2]}

        # A StatefulSet starts the added pod first: it takes targets over before the others let go of them.
        await them.start_all((1, 3), 4)
        placement = await them.placement()
        added = placement[3]
        assert placement == {0: of_three[0], 1: of_three[1] - added, 2: of_three[2], 3: added}
        await them.kill(0)
        await them.kill(2)
        await them.start_all((0, 2), 4)
        of_four = await them.placement()
        assert served_once(of_four)
        assert of_four == {0: of_three[0] - added, 1: of_three[1] - added, 2: of_three[2] - added, 3: added}
        assert 2 <= len(added) <= 4  # of 12

        for ordinal, pod in them.pods.items():
            assert (await pod.client.get("/api/v1/status"))["shard"] == f"{ordinal}/4"
            page = await scrape(pod.client)
            assert page.labels("tunnels_shards") == [{"shard": str(ordinal)}]
            assert page.value("tunnels_shards") == 4
            assert complaints(page.text) == ""


@pytest.mark.parametrize(
    ("host", "environ", "shard"),
    [
        ("tunnels-2.tunnels.default.svc", {"TUNNELS_SHARD": "4", "POD_NAME": ""}, "2/4"),
        ("node-3", {"TUNNELS_SHARD": "4", "POD_NAME": "my.tunnels-1"}, "1/4"),
    ],
)
def test_the_shard_comes_from_the_name_of_the_pod(
    host: str, environ: dict[str, str], shard: str, tmp_path: Path
) -> None:
    """The host name is set in a namespace of its own."""
    done = run_on(host, environ, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"shard {shard} serves 0 of 0 targets" in done.stderr


def test_a_host_without_an_ordinal_has_no_shard(tmp_path: Path) -> None:
    done = run_on("laptop", {"TUNNELS_SHARD": "4"}, tmp_path)
    assert done.returncode == 2
    assert "no ordinal at the end of the pod name 'laptop'" in " ".join(done.stderr.split())


async def test_a_tunnel_of_another_shard_is_reported_with_the_shard(tmp_path: Path) -> None:
    text = "targets:\n" + "".join(
        f"  {name}: {{host: 127.0.0.1, user: x, tunnels: [{{type: socks, localPort: 0, enabled: false}}]}}\n"
        for name in TARGETS
    )
    other = next(name for name in TARGETS if not Shard(0, 2).has(name))
    async with program(tmp_path, text, "--shard", "0/2") as run:
        for command in ("status", "restart"):
            done = await run.ran(command, f"{other}/*")
            assert done.code == 1
            assert "this process is shard 0/2, and another shard may have the tunnel" in done.err


def run_on(host: str, environ: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `tunnels run` for a moment on a machine of this name."""
    file = directory / "tunnels.yaml"
    file.write_text("targets: {}\n")
    command = [sys.executable, "-m", "reconciler", "run", "--listen", "none", "--control", "none", str(file)]
    named = ["unshare", "--map-root-user", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh"]
    return subprocess.run(
        [*named, *command, "--", "true"],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN,
    )
