"""The status page as the program serves it: headers, status, events."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from page.browser import Tab
from reconciler import __version__
from reconciler.runtime.instance import instance_name
from support import tunnels as files
from support.processes import tied_to_parent
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.wait import eventually, free_port


@pytest.fixture
def program(tmp_path: Path, sshd: Sshd, echo: EchoServer) -> Iterator[str]:
    """Run the program with one tunnel and return the URL of its page."""
    file = tmp_path / "tunnels.yaml"
    tunnel = files.local("echo", free_port(), echo.port, health="{type: tcp, interval: 1s}")
    file.write_text("targets:\n" + files.target(sshd, "prod") + tunnel)
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


async def test_the_view_of_a_tunnel_shows_what_the_program_recorded(tab: Tab, program: str, sshd: Sshd) -> None:
    await eventually(lambda: listens(program), within=30, message="the program listens")
    await tab.open(f"{program}#tunnel=prod/echo")
    await tab.until("document.getElementById('detail-phase').innerText.trim() === 'up'")
    place = await tab.until("(text => text.includes(':') && text)(document.getElementById('detail-place').textContent)")
    path, line = place.rsplit(":", 1)
    assert "name: echo" in Path(path).read_text().splitlines()[int(line) - 1]
    listen = await tab.run("document.querySelector('#detail-route .stop').textContent")
    host, port = listen.rsplit(":", 1)
    async with connected(host, int(port)) as (_, writer):
        source = ":".join(map(str, writer.get_extra_info("sockname")))
        await tab.until(f"document.getElementById('clients').innerText.includes('{source}')")
    await sshd.stop()
    await tab.until("document.querySelectorAll('#failures li').length > 0")
    await tab.until("document.getElementById('hour-sums').textContent.includes('1 loss, 0 reconnects')")
    assert await tab.run("document.getElementById('hour-down').getAttribute('d') !== ''")
    assert await tab.run("document.getElementById('instance').textContent") == instance_name(os.environ)
    assert await tab.run("document.getElementById('version').textContent") == __version__


async def test_the_queries_name_series_of_the_program(tab: Tab, program: str, tmp_path: Path) -> None:
    await eventually(lambda: listens(program), within=30, message="the program listens")
    await tab.open(f"{program}#tunnel=prod/echo")
    await tab.until("document.getElementById('detail-phase').innerText.trim() === 'up'")
    metrics = "fetch('metrics').then(response => response.text())"
    text = await tab.until(f"{metrics}.then(text => text.includes('ssh_tunnel_probe_success{{') && text)")
    queries = await tab.run("[...document.querySelectorAll('#queries code')].map(code => code.textContent)")
    assert len(queries) > 10
    for query in queries:
        [(name, labels)] = re.findall(r"(ssh_\w+)\{([^}]*)\}", query)
        assert f"# TYPE {name} " in text, query
        wanted = set(labels.split(","))
        series = [set(one.split(",")) for one in re.findall(rf"^{name}\{{([^}}]*)\}}", text, re.MULTILINE)]
        assert name.endswith("_failures_total") or any(wanted <= one for one in series), query
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}))
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: tests/system-packages.sh installs it (Debian: prometheus)")
    command = ["promtool", "check", "rules", str(tmp_path / "rules.json")]
    checked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
