"""`tunnels run`: its endpoints, and `run FILE -- CMD`, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from reconciler.runtime import endpoints
from support.endpoints import Client, client_of
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local, running, target
from support.wait import eventually, free_port, has_listener

NOWHERE = ("--listen", "none", "--control", "none")


@contextlib.asynccontextmanager
async def run(*arguments: object, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running `tunnels run`; killed when the block is left, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reconciler", "run", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ran(*arguments: object, **environ: str) -> tuple[int, str, str]:
    """Run `tunnels run` to its end; return exit code, stdout and stderr."""
    async with run(*arguments, **environ) as process:
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def is_up(control: Client) -> bool:
    """Return True if the process responds that all tunnels are up."""
    try:
        return bool((await control.get("/api/v1/wait"))["ok"])
    except aiohttp.ClientConnectionError:
        return False


def written(directory: Path, text: str) -> Path:
    (directory / "tunnels.yaml").write_text(text)
    return directory / "tunnels.yaml"


async def test_the_environment_configures_endpoints_and_logs(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path, port = tmp_path / "c.sock", free_port()
    where = written(tmp_path, file(sshd, local("echo", free_port(), echo.port)))
    environ = {
        "TUNNELS_CONFIG": str(where),
        "TUNNELS_LISTEN": f"127.0.0.1:{port}",
        "TUNNELS_CONTROL": str(path),
        "TUNNELS_LOG_FORMAT": "json",
        "TUNNELS_LOG_LEVEL": "warning",
    }
    async with run(**environ) as process, client_of(path=str(path)) as control:
        await eventually(partial(is_up, control), within=30)
        async with client_of(address=f"127.0.0.1:{port}") as http:
            assert await http.text("/readyz") == (200, "ok\n")
        (tmp_path / ".new").write_text("targets: 1\n")
        (tmp_path / ".new").replace(where)
        assert (await control.post("/api/v1/reload"))["valid"] is False
        assert process.stderr is not None
        line = json.loads(await asyncio.wait_for(process.stderr.readline(), 30))
        assert line["level"] == "error"
        assert "tunnels.yaml:1" in line["message"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert not path.exists()


async def test_a_program_gets_the_ports_and_its_exit_code_is_returned(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    where = written(tmp_path, file(sshd, local("my-echo.1", 0, echo.port)))
    script = (
        "import os, socket, sys; "
        "s = socket.create_connection((os.environ['TUNNEL_SERVER_MY_ECHO_1_HOST'], "
        "int(os.environ['TUNNEL_SERVER_MY_ECHO_1_PORT']))); "
        "s.sendall(b'ping'); print(s.recv(4).decode(), *sys.argv[1:]); sys.exit(7)"
    )
    code, out, _ = await ran(where, *NOWHERE, "--", sys.executable, "-c", script, "--flag", "--")
    assert (code, out) == (7, "ping --flag --\n")


async def test_a_program_gets_no_variable_for_an_unbound_port(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    off = {"enabled": "false"}
    lines = local("any", 0, echo.port, **off), local("range", '"23210-23219"', echo.port, **off), local("up", 0, 1)
    code = "import os; print(*sorted(name for name in os.environ if name.startswith('TUNNEL_')))"
    _, out, err = await ran(written(tmp_path, file(sshd, *lines)), *NOWHERE, "--", sys.executable, "-c", code)
    assert out == "TUNNEL_SERVER_UP_HOST TUNNEL_SERVER_UP_PORT\n", err


async def test_a_program_is_not_run_if_the_tunnels_are_not_up_in_time(sshd: Sshd, tmp_path: Path) -> None:
    where = written(tmp_path, "targets:\n" + target(sshd, "dead", port=free_port()) + local("x", free_port(), 1))
    code, out, err = await ran(where, *NOWHERE, "--timeout", "5s", "--", "echo", "it ran")
    assert (code, out) == (1, "")
    assert "timed out after 5 s: dead/x is down (refused)" in err


async def test_a_program_that_is_not_found_exits_with_127(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    where = written(tmp_path, file(sshd, local("echo", 0, echo.port)))
    code, _, err = await ran(where, *NOWHERE, "--", "no-such-program-here")
    assert code == 127
    assert "cannot run no-such-program-here" in err


async def test_sigterm_is_forwarded_to_the_program(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    where = written(tmp_path, file(sshd, local("echo", 0, echo.port)))
    script = "trap 'echo trapped; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    async with run(where, *NOWHERE, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"trapped\n"
        assert await asyncio.wait_for(process.wait(), 30) == 3


async def test_a_control_socket_in_use_is_taken_over_when_it_is_free(tmp_path: Path) -> None:
    where = written(tmp_path, "targets: {}\n")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    path = tmp_path / "tunnels.sock"
    async with run(where, "--listen", "none", **environ) as old:
        await eventually(partial(has_listener, path), within=30)
        async with run(where, "--listen", "none", **environ) as new:
            assert new.stderr is not None
            line = (await asyncio.wait_for(new.stderr.readline(), 30)).decode()
            assert re.search(rf"WARNING cannot listen on .*{path}: .* by \S+ \(pid {old.pid}\); ", line)
            assert "status, wait and the other commands reach that process: set another path with --control" in line
            old.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(old.wait(), 30) == 0
            assert b"control socket at" in await asyncio.wait_for(new.stderr.readline(), 30)
            async with client_of(path=str(path)) as control:
                assert await is_up(control)


async def test_an_http_address_in_use_is_taken_over_when_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "RETRY_AFTER", 0.05)
    async with running(tmp_path, "targets: {}\n") as tunnels:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "{}:{}".format(*taken.getsockname())
            monkeypatch.setattr(endpoints, "DEFAULT_LISTEN", address)
            stack = contextlib.AsyncExitStack()
            served = await stack.enter_async_context(
                endpoints.serving(tunnels.app, endpoints.Endpoints(control="none"))
            )
        assert served.listen == ""
        assert f"cannot listen on {address}" in caplog.text
        assert f"(pid {os.getpid()})" in caplog.text or "this process itself" in caplog.text
        async with stack, client_of(address=address) as http:
            await eventually(partial(answers, http))
        with pytest.raises(aiohttp.ClientConnectionError):
            async with client_of(address=address) as http:
                await http.text("/livez")


async def answers(http: Client) -> bool:
    try:
        return await http.text("/livez") == (200, "ok\n")
    except aiohttp.ClientConnectionError:
        return False


async def test_invalid_options_exit_with_2(tmp_path: Path) -> None:
    where = written(tmp_path, "targets: {}\n")
    for flags in (("--shard", "3/3"), ("--listen", "nowhere"), ("--control", str(tmp_path / "no" / "c.sock"))):
        code, _, err = await ran(where, *flags)
        assert code == 2, err
    assert (await ran(where, "--"))[0] == 2
