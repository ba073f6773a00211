"""The start as it is seen: progress on a terminal, and no wait for what no retry can bring up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from integration.commands import WITHIN, program, ran
from reconciler.api import TunnelsNotUpError, open_tunnels
from support.keys import Keys
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import free_port


def refused(sshd: Sshd, directory: Path) -> str:
    """Return a target with a key that the server does not accept."""
    other = Keys(directory).make("other").private
    return target(sshd, "refused", privateKey=other) + local("db", free_port(), 1)


def dead() -> str:
    """Return a target on a port where nothing listens: a retry may help."""
    fields = f"    host: 127.0.0.1\n    port: {free_port()}\n    user: u\n    password: {{file: /etc/hostname}}\n"
    return f"  dead:\n{fields}    tunnels:\n{local('db', free_port(), 1)}"


async def test_wait_ends_at_once_if_each_missing_tunnel_needs_action(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    up = "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)
    async with program(tmp_path, up + refused(sshd, tmp_path)) as run:
        waited = await run.ran("wait", "--timeout", "1h")
        assert waited.code == 1
        assert "error: no retry helps until this is fixed: refused/db is down (auth): " in waited.err
        assert (await run.ran("wait", "server", "--timeout", "1h")).code == 0, "others do not matter"
        run.edit(up + refused(sshd, tmp_path / "again") + dead())
        await run.ran("wait", "refused", "--timeout", "1h")
        assert "timed out after" in (await run.ran("wait", "--timeout", "300ms")).err, "dead may come up"


async def test_run_and_open_tunnels_end_at_once_too(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + refused(sshd, tmp_path))
    ended = await ran("run", "--control", "none", "--listen", "none", "--timeout", "1h", file, "--", "true")
    assert ended.code == 1
    assert "no retry helps until this is fixed: refused/db is down (auth)" in ended.err
    async with asyncio.timeout(WITHIN):
        with pytest.raises(TunnelsNotUpError, match="no retry helps until this is fixed:\nrefused/db: down"):
            async with open_tunnels(file, within=3600):
                pass


async def test_wait_shows_the_progress_on_a_terminal(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = "targets:\n" + target(sshd) + local("echo", free_port(), echo.port) + dead()
    async with program(tmp_path, text) as run:
        env = {"TUNNELS_CONTROL": str(run.control)}
        async with on_terminal("-m", "reconciler", "wait", "--timeout", "1h", env=env) as shown:
            await shown.until("\r\x1b[K1 of 2 up, waiting for dead/db")
        plain = await run.ran("wait", "--timeout", "1s")
        assert "\x1b" not in plain.err, "only on a terminal"


async def test_run_and_open_tunnels_show_the_progress_too(tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + dead())
    options = ("--control", "none", "--listen", "none", "--timeout", "1h")
    async with on_terminal("-m", "reconciler", "run", *options, file, "--", "true") as shown:
        await shown.until("0 of 1 up, waiting for dead/db")
        await shown.until("\r\x1b[K")  # a log line erases it first
    code = f"import asyncio, reconciler.api as a; asyncio.run(a.open_tunnels({str(file)!r}, within=3600).__aenter__())"
    async with on_terminal("-c", code) as shown:
        await shown.until("0 of 1 up, waiting for dead/db")


class Terminal:
    """What a program writes to its terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    async def until(self, text: str) -> None:
        """Read until this text has been written, and forget what came before its end."""
        async with asyncio.timeout(WITHIN):
            while text not in self._text:
                self._text += (await asyncio.to_thread(os.read, self._descriptor, 4096)).decode()
        self._text = self._text.partition(text)[2]


@contextlib.asynccontextmanager
async def on_terminal(*arguments: object, env: dict[str, str] | None = None) -> AsyncIterator[Terminal]:
    """Start Python with its stderr on a terminal; kill it at the end of the block."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", **(env or {})}
    environment |= {"COLUMNS": "80"}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    try:
        yield Terminal(ours)
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        os.close(ours)
