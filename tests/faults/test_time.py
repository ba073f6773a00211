"""Tunnels survive a suspended process and changes of the wall clock."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from reconciler.core import plan
from reconciler.core.observed import Now, Phase
from reconciler.runtime.loop import SystemClock
from support.clients import FULL, moving
from support.program import answers, program
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local, remote, running
from support.wait import eventually, free_port

ASLEEP = 60.0 if FULL else 5.0
HOUR = 3600.0


async def test_a_suspended_process_works_again_after_it_resumes(echo: EchoServer, tmp_path: Path) -> None:
    await asyncio.gather(
        suspended(echo, tmp_path / "waits", {}),
        suspended(echo, tmp_path / "gives-up", {"ClientAliveInterval": "1", "ClientAliveCountMax": "1"}),
    )


async def suspended(echo: EchoServer, directory: Path, options: dict[str, str]) -> None:
    """Suspend and resume a process: both tunnels work again. `options` are options of the server."""
    port, far = free_port(), free_port()
    async with Sshd(directory / "sshd", options=options) as sshd:
        config = directory / "tunnels.yaml"
        lines = local("near", port, echo.port), remote("far", far, echo.port)
        config.write_text(file(sshd, *lines, keepaliveInterval="1s", keepaliveCountMax=1))
        async with program(config) as tunnels:
            for place in (port, far):
                await answers(place)
            tunnels.send(signal.SIGSTOP)
            await asyncio.sleep(ASLEEP)  # the scenario
            tunnels.send(signal.SIGCONT)
            for place in (port, far):
                await answers(place)
            assert await tunnels.end() == 0
            log = tunnels.log_text()
            assert "Traceback" not in log, log
            assert "internal error" not in log, log


async def test_a_jump_of_the_wall_clock_changes_only_expired_tunnels(
    sshd: Sshd,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jumped = 0.0
    monkeypatch.setattr(SystemClock, "now", lambda _: Now(time.monotonic(), time.time() + jumped))
    monkeypatch.setattr(plan, "WALL_CHECK_EVERY", 0.1)
    port, glass = free_port(), free_port()
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2 * HOUR))
    lines = local("echo", port, echo.port), local("glass", glass, echo.port, expiresAt=expires)
    async with running(tmp_path, file(sshd, *lines)) as tunnels:
        await tunnels.all_up()
        links = tunnels.links
        async with moving([port] * 3):
            for hours, phase in ((1, Phase.UP), (-24, Phase.UP), (3, Phase.OFF), (24 * 365, Phase.OFF), (0, Phase.UP)):
                jumped = hours * HOUR
                tunnels.engine.loop.wake()
                await tunnels.engine.passed()
                await tunnels.until("server/glass", phase)
                assert tunnels.phases()["server/echo"] is Phase.UP
        await eventually(lambda: tunnels.phases()["server/glass"] is Phase.UP)
        assert tunnels.links == links
