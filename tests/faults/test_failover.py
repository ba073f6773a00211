"""Hosts in order of preference: fail over when one dies, fail back without cutting clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from integration.commands import ran
from reconciler.core.actions import Dial
from reconciler.core.observed import LinkPhase
from reconciler.core.planner import links
from support.clients import all_move, moving
from support.endpoints import whole
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, running
from support.wait import eventually, free_port
from unit import build
from unit.build import World

A_DAY = 86_400.0


@contextlib.asynccontextmanager
async def two_hosts(directory: Path) -> AsyncIterator[tuple[Sshd, Sshd]]:
    """Two servers that accept one key. Both use the known_hosts file of the first."""
    async with Sshd(directory / "first") as first, Sshd(directory / "second", client=first.client) as second:
        with first.known_hosts.open("a") as known:
            known.write(second.known_hosts.read_text())
        yield first, second


async def test_clients_fail_over_and_fail_back_without_being_refused_or_cut(
    echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "FAIL_BACK_EVERY", 0.5)
    port = free_port()
    async with two_hosts(tmp_path) as (first, second):
        hosts = f'["{first.host}:{first.port}", "{second.host}:{second.port}"]'
        text = file(first, local("echo", port, echo.port), host=None, port=None, hosts=hosts)
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            assert host(tunnels) == 0
            await first.stop()
            assert await exchange("127.0.0.1", port) == b"ping", "held, then carried by the other host"
            assert host(tunnels) == 1
            async with moving([port] * 5) as movers:
                await asyncio.sleep(1.2)  # the scenario: the preferred host is tried twice without success
                await all_move(movers)
                assert host(tunnels) == 1
                await first.start()
                await eventually(lambda: host(tunnels) == 0)
                assert await exchange("127.0.0.1", port) == b"ping"
                await all_move(movers)  # on the old connection
                assert second.sessions() == 1
            await eventually(lambda: not second.sessions(), message="it ends with its last client")


async def test_status_log_and_events_report_that_the_first_host_is_not_used(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    dead = f"{sshd.host}:{free_port()}"
    hosts = f'["{dead}", "{sshd.host}:{sshd.port}"]'
    text = file(sshd, local("echo", free_port(), echo.port), host=None, port=None, hosts=hosts)
    why = f"{dead} refuses connections: start the SSH server, correct `host` or `port`, or check the firewalls"
    said = f"on {sshd.host}:{sshd.port}, host 2 of 2: retrying {dead} every 60 s; last failure: {why}"
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        assert any(record.getMessage().startswith(f"target server is up: {said} (") for record in caplog.records)
        events = (await it.control.get("/api/v1/events"))["events"]
        assert [one["message"] for one in events if (one["subject"], one["phase"]) == ("target server", "up")] == [said]
        status = await ran("status", env={"TUNNELS_CONTROL": it.served.control})
        assert (status.code, f"\nserver is up:\n  {said}\n" in status.out) == (0, True), status.out


@pytest.mark.parametrize("healthy_for", [0.0, 20.0])
def test_a_preferred_host_is_tried_at_most_once_a_minute(healthy_for: float) -> None:
    """Simulate a day in which the host is dead, or comes up for a moment at each try."""
    world = World()
    world.settled(build.target("prod", hosts=("a.example.com", "b.example.com")), build.local("prod/pg", 5432))
    preferred = world.link().access.hop.hosts[0]
    world.unreachable.add(preferred)
    world.lose(world.link().id, build.CLOSED)
    world.all_well()
    assert world.link().host == 1
    start = world.now().mono
    tries = list[float]()
    while world.now().mono < start + A_DAY:
        steps = world.passes()
        if any(isinstance(step, Dial) and step.limit == 1 for step in steps):
            tries.append(world.now().mono)
            if healthy_for:
                world.unreachable.discard(preferred)
        world.all_well()
        (ready,) = world.links(LinkPhase.READY)
        if ready.host == 0:
            world.elapse(healthy_for)
            world.unreachable.add(preferred)
            world.lose(ready.id, build.CLOSED)
            world.all_well()
        world.elapse(max(0.001, min(world.wake_at() - world.now().mono, 60.0)))
    apart = min(later - sooner for sooner, later in pairwise(tries))
    assert apart >= links.FAIL_BACK_EVERY


def host(tunnels: Running) -> int:
    """Return the host of the connection that new clients get."""
    ready = [link for link in tunnels.engine.actuator.observe().links if link.phase is LinkPhase.READY]
    return ready[-1].host if ready else -1
