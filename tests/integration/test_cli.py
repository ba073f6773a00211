"""The commands as a user runs them: processes, exit codes, what they print."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from support.services import EchoServer, connected, exchange, refuses
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.asynccontextmanager
async def tunnels(*arguments: object, env: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running `tunnels`, its stdout and stderr piped; killed when the block is left, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "reconciler",
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ran(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that ends by itself."""
    async with tunnels(*arguments, env=env) as process:
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    """The next line that has this text."""
    assert stream is not None
    async with asyncio.timeout(20):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"the output ended without {text!r}")


async def test_the_demo_serves_its_curl_and_moves_when_its_file_is_edited() -> None:
    async with tunnels("demo") as demo:
        file = Path((await line_with(demo.stdout, "The file:")).split()[-1])
        url = re.findall(r"http://127.0.0.1:(\d+)", await line_with(demo.stdout, "Try:"))
        assert b"Hello through the tunnel" in await get(int(url[0]))
        moved = free_port()
        file.write_text(file.read_text().replace(url[0], str(moved)))
        await line_with(demo.stdout, f"127.0.0.1:{moved} ->")
        assert b"Hello through the tunnel" in await get(moved)
        demo.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(demo.wait(), 10) == 0
        assert not file.parent.exists(), "it leaves nothing behind"


async def test_the_demo_ends_by_itself_when_asked() -> None:
    code, out, _ = await ran("demo", "--exit-after", "1s")
    assert code == 0
    assert "is up: 127.0.0.1:" in out


async def test_run_serves_reloads_on_sighup_and_ends_on_sigterm(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    file, port = tmp_path / "tunnels.yaml", free_port()
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port))
    async with tunnels("run", file) as run:
        await line_with(run.stderr, "tunnel server/echo is up")
        assert await exchange("127.0.0.1", port) == b"ping"
        run.send_signal(signal.SIGHUP)
        assert await exchange("127.0.0.1", port) == b"ping"
        run.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(run.wait(), 10) == 0


async def test_sigterm_lets_a_client_finish_and_a_second_one_does_not(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    file, port = tmp_path / "tunnels.yaml", free_port()
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port))
    async with tunnels("run", file) as run:
        await line_with(run.stderr, "tunnel server/echo is up")
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
            run.send_signal(signal.SIGTERM)
            await eventually(partial(refuses, port))
            writer.write(b"b")
            assert await reader.readexactly(1) == b"b", "a live client drains"
            run.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(run.wait(), 5) == 0
            with pytest.raises(ConnectionResetError):
                await reader.read(1)


async def test_run_exits_2_when_no_file_is_valid_and_says_where(tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n  prod:\n    hots: a.example.com\n    tunnels: []\n")
    code, _, err = await ran("run", file)
    assert code == 2
    assert f"{file}:3:" in err
    assert "did you mean" in err


async def test_check_tells_valid_from_invalid(tmp_path: Path) -> None:
    assert (await ran("check", EXAMPLES / "tunnels.yaml"))[0] == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("targets: {prod: {host: a, tunnels: [{type: local, localPort: abc, remotePort: 1}]}}\n")
    code, out, err = await ran("check", bad)
    assert (code, out) == (2, "")
    assert f"error: {bad}:1:" in err
    assert "localPort" in err
    assert "Traceback" not in err


async def test_check_prints_the_file_with_defaults_and_its_revision() -> None:
    code, out, _ = await ran("check", "--output", "json", EXAMPLES / "tunnels.yaml")
    found = json.loads(out)
    assert code == 0
    assert found["valid"] is True
    assert found["revision"].startswith("sha256:")
    assert found["config"]["targets"]["prod"]["keepaliveInterval"] == "10s"


async def test_schema_is_the_schema() -> None:
    code, out, _ = await ran("schema")
    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


async def test_help_and_version_answer_and_a_wrong_verb_is_2() -> None:
    code, out, _ = await ran("--help")
    assert code == 0
    assert "demo" in out
    assert (await ran("--version"))[0] == 0
    assert (await ran("nonsense"))[0] == 2


async def get(port: int) -> bytes:
    async with connected("127.0.0.1", port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return await reader.read()
