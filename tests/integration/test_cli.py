"""The commands as a user runs them: processes, exit codes, output."""

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

import pytest

from integration import commands
from support.services import EchoServer, connected, exchange, refuses
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port, has_listener

WITHIN = commands.WITHIN
EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.asynccontextmanager
async def tunnels(*arguments: object, env: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `tunnels` with stdout and stderr piped; kill it at the end of the block if it still runs."""
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
    """Run a command to its end; return exit code, stdout and stderr."""
    async with tunnels(*arguments, env=env) as process:
        out, err = await asyncio.wait_for(process.communicate(), WITHIN)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    """Return the next line with this text."""
    assert stream is not None
    async with asyncio.timeout(WITHIN):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"the output ended without {text!r}")


def demo_in(directory: Path) -> dict[str, str]:
    """Return an environment in which the demo makes its temporary files here."""
    return {**os.environ, "TMPDIR": str(directory)}


async def test_the_demo_serves_its_curl_and_follows_an_edit(tmp_path: Path) -> None:
    async with tunnels("demo", env=demo_in(tmp_path)) as demo:
        file = Path((await line_with(demo.stdout, "The file:")).split()[-1])
        url = re.findall(r"http://127.0.0.1:(\d+)", await line_with(demo.stdout, "Try:"))
        assert b"Hello through the tunnel" in await get(int(url[0]))
        moved = free_port()
        file.write_text(file.read_text().replace(url[0], str(moved)))
        await line_with(demo.stdout, f"127.0.0.1:{moved} ->")
        assert b"Hello through the tunnel" in await get(moved)
        demo.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(demo.wait(), WITHIN) == 0
        assert not file.parent.exists(), "the demo removes its files"


async def test_the_suggestions_of_the_demo_work_one_after_the_other(tmp_path: Path) -> None:
    async with tunnels("demo", env=demo_in(tmp_path)) as demo:
        proposed = await line_with(demo.stdout, "sed -i")
        file = Path(proposed.split()[-1])
        [(old, new)] = re.findall(r"s/(\d+)/(\d+)/", proposed)
        file.write_text(file.read_text().replace(old, new))
        await line_with(demo.stdout, f"127.0.0.1:{new} ->")
        file.write_text(re.sub("# (?=- name: second|  type|  localPort|  remotePort)", "", file.read_text()))
        await line_with(demo.stdout, "tunnel demo/second is up")
        assert b"Hello through the tunnel" in await get(int(new))


async def test_the_demo_exits_after_the_given_time(tmp_path: Path) -> None:
    code, out, _ = await ran("demo", "--exit-after", "4s", env=demo_in(tmp_path))
    assert code == 0
    assert "is up: 127.0.0.1:" in out


async def test_run_serves_reloads_on_sighup_and_exits_on_sigterm(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    file, port = tmp_path / "tunnels.yaml", free_port()
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port))
    async with tunnels("run", file) as run:
        await line_with(run.stderr, "target server is up")
        assert await exchange("127.0.0.1", port) == b"ping"
        run.send_signal(signal.SIGHUP)
        assert await exchange("127.0.0.1", port) == b"ping"
        run.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(run.wait(), WITHIN) == 0


async def test_sigterm_drains_clients_and_a_second_one_cuts_them(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    file, port = tmp_path / "tunnels.yaml", free_port()
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port))
    async with tunnels("run", file) as run:
        await line_with(run.stderr, "target server is up")
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
            run.send_signal(signal.SIGTERM)
            await eventually(partial(refuses, port))
            writer.write(b"b")
            assert await reader.readexactly(1) == b"b", "a live client drains"
            run.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(run.wait(), WITHIN) == 0
            with pytest.raises(ConnectionResetError):
                await reader.read(1)


async def test_run_exits_with_2_and_the_line_if_no_file_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n  prod:\n    hots: a.example.com\n    tunnels: []\n")
    code, _, err = await ran("run", file)
    assert code == 2
    assert f"{file}:3:" in err
    assert "did you mean" in err


async def test_schema_prints_the_schema() -> None:
    code, out, _ = await ran("schema")
    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


async def test_help_and_version_exit_with_0_and_an_unknown_command_with_2() -> None:
    code, out, _ = await ran("--help")
    assert code == 0
    assert "demo" in out
    assert (await ran("--version"))[0] == 0
    assert (await ran("nonsense"))[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["schema", "--help", "status", "events"])
async def test_output_that_cannot_be_written_is_one_error_line_and_1(command: str, tmp_path: Path) -> None:
    async with commands.program(tmp_path, "targets: {}\n") as run:
        for output, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
            script = f'exec {sys.executable} -m reconciler "$@" {output}'
            arguments = [] if command in ("schema", "--help") else ["--control", str(run.control)]
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", script, "sh", command, *arguments), stderr=asyncio.subprocess.PIPE
            )
            _, err = await asyncio.wait_for(process.communicate(), WITHIN)
            assert (process.returncode, err.decode()) == (1, f"error: cannot write: {why}\n")


@pytest.mark.parametrize("command", ["connections", "events"])
async def test_ctrl_c_exits_with_130_and_no_traceback(command: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c.sock"))
        listener.listen()
        listener.settimeout(WITHIN)
        async with tunnels(command, "--control", tmp_path / "c.sock") as process:
            asked, _ = await asyncio.to_thread(listener.accept)
            with asked:
                process.send_signal(signal.SIGINT)
                _, err = await asyncio.wait_for(process.communicate(), WITHIN)
            assert (process.returncode, err) == (130, b"\nerror: interrupted\n")


async def test_ctrl_c_during_the_imports_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    code, _, err = await ran("schema", env={**os.environ, "PYTHONPATH": f"{tmp_path}:{EXAMPLES.parent}"})
    assert (code, err) == (130, "")


async def test_status_reports_an_emptied_directory(tmp_path: Path) -> None:
    folder, control = tmp_path / "conf", tmp_path / "control.sock"
    folder.mkdir()
    (folder / "a.yaml").write_text("targets: {a: {host: a.invalid, user: u, agent: true, enabled: false}}\n")
    env = {"TUNNELS_CONTROL": str(control)}
    async with commands.process("run", "--control", control, "--listen", "none", folder):
        await eventually(partial(has_listener, control), within=WITHIN)
        assert (await commands.ran("reload", env=env)).code == 0
        (folder / "a.yaml").unlink()
        assert (await commands.ran("reload", env=env)).code == 1
        assert (
            f"{folder}/a.yaml is invalid: its last valid content stays in use."
            in (await commands.ran("status", env=env)).out
        )
        (file,) = (await commands.ran("status", "--output", "json", env=env)).json["config"]["files"]
        assert (file["valid"], file["error"]) == (False, f"{folder}: no *.yaml or *.yml files in this directory")


async def test_an_unknown_id_is_an_error_and_1(tmp_path: Path) -> None:
    text = "targets: {a: {host: a.invalid, user: u, password: {env: PW}, enabled: false, tunnels: [%s]}}\n"
    gone, stays = "{name: gone, socks: 1080}", "{name: stays, socks: 1081}"
    async with commands.program(tmp_path, text % f"{gone}, {stays}") as run:
        for command in (["connections"], ["events"], ["events", "--follow"]):
            wrong = await run.ran(*command, "a/stays", "nosuch")
            assert (wrong.code, wrong.out) == (1, "")
            assert 'no tunnel matches "nosuch": the tunnels are a/gone, a/stays' in wrong.err
        assert (await run.ran("connections", "a/*")).out == "no clients are connected\n"
        run.edit(text % stays)
        assert (await run.ran("reload")).code == 0
        await eventually(partial(has_removal_event, run))


async def has_removal_event(run: commands.Program) -> bool:
    """Return True if `events` shows the removal of the tunnel, with the time in UTC as in the log."""
    events = await run.ran("events", "a/gone")
    assert events.code == 0
    return bool(
        re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  tunnel a/gone  off -> gone$", events.out, re.MULTILINE)
    )


async def test_a_tunnel_that_the_file_disables_is_not_restarted_or_resumed(tmp_path: Path) -> None:
    text = "targets: {a: {host: a.invalid, user: u, password: {env: PW}, tunnels: [%s, %s]}}\n"
    off, on = "{name: off, socks: 1080, enabled: false}", f"{{name: on, socks: {free_port()}}}"
    async with commands.program(tmp_path, text % (off, on)) as run:
        stays_off = "a/off: stays off: the file has `enabled: false`\n"
        assert (await run.ran("restart", "a")).out == f"{stays_off}a/on: restarted\n"
        assert (await run.ran("pause", "a/on")).code == 0
        await eventually(partial(is_paused, run))
        assert (await run.ran("restart", "a/on")).out == f"{stays_off}a/on: stays off: paused\n"
        assert (await run.ran("resume", "--all")).out == f"{stays_off}a/on: resumed\n"


async def is_paused(run: commands.Program) -> bool:
    return "paused" in (await run.ran("status", "a/on")).out


async def get(port: int) -> bytes:
    async with connected("127.0.0.1", port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return await reader.read()
