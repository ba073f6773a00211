"""The status page as the program serves it: headers, status, events."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from page.browser import Tab
from support import tunnels as files
from support.processes import tied_to_parent
from support.services import EchoServer
from support.sshd import Sshd
from support.wait import eventually, free_port


@pytest.fixture
def program(tmp_path: Path, sshd: Sshd, echo: EchoServer) -> Iterator[str]:
    """Run the program with one tunnel and return the URL of its page."""
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + files.target(sshd, "prod") + files.local("echo", free_port(), echo.port))
    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "reconciler", "run", "--listen", listen, "--control", "none", str(file)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(tied_to_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield f"http://{listen}/"
    finally:
        process.kill()
        process.wait()


async def listens(url: str) -> bool:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_the_served_page_shows_a_tunnel_come_up_and_go_down(tab: Tab, program: str, sshd: Sshd) -> None:
    await eventually(lambda: listens(program), within=30, message="the program listens")
    await tab.open(program)
    word = "document.querySelector('.tunnel .word')?.textContent"
    await tab.until(f"{word} === 'up'", within=30)
    assert await tab.run("document.querySelector('.target .host').textContent") == f"{sshd.host}:{sshd.port}"
    await tab.until(
        "[...document.querySelectorAll('#events .subject')].some(one => one.textContent === 'tunnel prod/echo')"
    )
    await sshd.stop()
    await tab.until(f"{word} === 'down'", within=30)
    await tab.until("document.querySelector('#events li').innerText.includes('down')")
    assert await tab.run("document.querySelector('.target > .why .message').textContent.length") > 10
