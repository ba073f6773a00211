"""The bastion goes down and comes up again: no client is refused."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import local, running, target
from support.wait import eventually, free_port

POLLERS = 4


async def test_a_bastion_outage_of_three_seconds_refuses_no_client(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    refused, successes = 0, list[float]()
    stop = asyncio.Event()

    async def poll() -> None:
        nonlocal refused
        while not stop.is_set():
            try:
                await exchange("127.0.0.1", port, b"ping")
                successes.append(time.monotonic())
            except ConnectionRefusedError:
                refused += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # this exchange was in progress when the bastion went down
            await asyncio.sleep(0.01)

    async with running(tmp_path, "targets:\n" + target(sshd) + local("echo", port, echo.port)) as tunnels:
        await tunnels.all_up()
        pollers = [asyncio.create_task(poll()) for _ in range(POLLERS)]
        await sshd.stop()
        await asyncio.sleep(3)  # the scenario: an outage of three seconds
        back = time.monotonic()
        await sshd.start()
        await tunnels.all_up()
        await eventually(lambda: any(moment > back for moment in successes))
        stop.set()
        await asyncio.gather(*pollers)
    assert refused == 0


async def test_a_killed_session_is_replaced_at_once_ten_times(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, "targets:\n" + target(sshd) + local("echo", port, echo.port)) as tunnels:
        await tunnels.all_up()
        for _ in range(10):
            await sshd.kill_sessions()
            assert await exchange("127.0.0.1", port, b"ping") == b"ping"
