"""The limit of open files: raised for the program itself, restored for its child processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import tied_to_parent
from support.program import answers, limited, limits, program
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local
from support.wait import WITHIN, eventually, free_port


async def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    config = tmp_path / "tunnels.yaml"
    config.write_text("targets: {}\n")
    async with program(config, through=limited(200, 700)) as tunnels:
        await eventually(lambda: limits(tunnels.pid) == (700, 700))


async def test_a_proxy_command_gets_the_original_limit(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    relay, limit, port = tmp_path / "relay.py", tmp_path / "limit", free_port()
    relay.write_text(
        "import os, resource, socket, sys, threading\n"
        f"open({str(limit)!r}, 'w').write(str(resource.getrlimit(resource.RLIMIT_NOFILE)))\n"
        "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536):\n"
        "        sock.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := sock.recv(65536):\n"
        "    os.write(1, data)\n"
    )
    config = tmp_path / "tunnels.yaml"
    command = f"[{sys.executable}, {relay}, '%h', '%p']"
    config.write_text(file(sshd, local("echo", port, echo.port), proxyCommand=command))
    async with program(config, "--allow-commands", through=limited(200, 700)) as tunnels:
        await answers(port)
        assert limits(tunnels.pid) == (700, 700)
        assert "(200, 700)" in limit.read_text()
        assert await tunnels.end() == 0


async def test_a_missing_proxy_command_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), 1), proxyCommand="[no-such-program]")
    path = tmp_path / "tunnels.yaml"
    path.write_text(text)
    async with program(path, "--allow-commands", through=limited(200, 700)) as tunnels:
        message = "cannot start the proxy command no-such-program for"
        await eventually(lambda: message in tunnels.log_text(), message=tunnels.log_text)


async def run_beside(directory: Path, *command: str) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr of `tunnels run FILE -- command`, run with the limits 200 and 700."""
    (directory / "tunnels.yaml").write_text("targets: {}\n")
    run = [sys.executable, "-m", "reconciler", "run", "--listen", "none", "--control", "none"]
    process = await asyncio.create_subprocess_exec(
        *tied_to_parent([*limited(200, 700), *run, str(directory / "tunnels.yaml"), "--", *command]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 2 * WITHIN)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_child_program_gets_the_original_limit(tmp_path: Path) -> None:
    show = "ulimit -Sn; ulimit -Hn; grep SigIgn /proc/self/status; exit 7"
    code, out, err = await run_beside(tmp_path, "sh", "-c", show)
    assert (code, out.split()[:2]) == (7, ["200", "700"]), err
    ignored = int(out.split()[-1], 16)
    # Python ignores these two for itself. A shell that runs the tests in the background may ignore others.
    assert not [one for one in (signal.SIGPIPE, signal.SIGXFSZ) if ignored & 1 << (one - 1)]


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc/passwd", 126), ("/", 126)])
async def test_a_child_program_that_cannot_run_is_reported(tmp_path: Path, command: str, code: int) -> None:
    ended, _, err = await run_beside(tmp_path, command)
    assert ended == code
    assert f"cannot run {command}" in err
    assert "Traceback" not in err
