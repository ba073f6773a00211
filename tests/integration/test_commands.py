"""The commands that query or change a running process, with a real process and a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integration.commands import WITHIN, Program, process, program, ran
from reconciler.cli.terminal.text_width import text_width
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port

NOT_RUNNING = {"TUNNELS_CONTROL": "/nonexistent/tunnels.sock"}


def dead(port: int) -> str:
    """Return a target on a port where nothing listens."""
    return (
        f"  gone:\n    host: 127.0.0.1\n    port: {port}\n    user: nobody\n    password: {{env: PW}}\n"
        f"    tunnels:\n      - {{name: db, local: '{free_port()}:db:5432'}}\n"
    )


async def test_status_exits_with_0_and_shows_addresses_if_all_are_up(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with program(tmp_path, "targets:\n" + target(sshd) + local("echo", port, echo.port)) as run:
        assert (await run.ran("wait")).code == 0
        status = await run.ran("status")
        assert status.code == 0
        assert re.search(rf"server/echo +up +127\.0\.0\.1:{port} +127\.0\.0\.1:{echo.port} +0 ", status.out)
        assert "1 tunnel up" in status.out
        assert "\x1b" not in status.out, "colour only on terminals"


async def test_status_of_a_dead_target_exits_with_1_and_fits_80_columns(tmp_path: Path) -> None:
    async with program(tmp_path, "targets:\n" + dead(free_port())) as run:
        assert (await run.ran("wait", "--timeout", "500ms")).code == 1
        status = await run.ran("status", env={"COLUMNS": "80"})
        assert status.code == 1
        assert "gone/db has been down for" in status.out
        assert all(len(line) <= 80 for line in status.out.splitlines())
        shown = await run.ran("status", "--output", "json")
        assert shown.code == 1
        assert shown.json["tunnels"][0]["reason"] in ("secret_unreadable", "refused")


async def test_an_unset_variable_is_reported_by_every_command(tmp_path: Path) -> None:
    text = "targets:\n  unset: {host: '${NO_SUCH}', user: u, agent: true, tunnels: [{name: db, local: '%d:x:1'}]}\n"
    async with program(tmp_path, text % free_port()) as run:
        assert (await run.ran("wait", "--timeout", "300ms")).code == 1
        status = await run.ran("status")
        assert status.code == 1
        assert "${NO_SUCH} is not set" in status.out
        assert "unset/db" in status.out
        [shown] = (await run.ran("status", "--output", "json")).json["tunnels"]
        assert (shown["phase"], shown["reason"], shown["needsAction"]) == ("down", "secret_unreadable", True)
        diagnosed = await run.ran("diagnose", "unset/db")
        assert diagnosed.code == 1
        assert "${NO_SUCH} is not set" in diagnosed.out
        assert "set it in the environment" in diagnosed.out
        assert "unknown" not in status.out + diagnosed.out, "no placeholder is shown"
    second = await ran("run", run.file, "--timeout", "300ms", "--", "true", env={"TUNNELS_CONTROL": "none"})
    assert second.code == 1
    assert "NO_SUCH" in second.err


async def test_status_takes_globs_and_reports_an_unknown_name(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = "targets:\n" + target(sshd) + local("one", free_port(), echo.port) + local("two", free_port(), echo.port)
    async with program(tmp_path, text) as run:
        await run.ran("wait")
        assert [one["name"] for one in (await run.ran("status", "*/t*", "--output", "json")).json["tunnels"]] == ["two"]
        assert len((await run.ran("status", "server", "--output", "json")).json["tunnels"]) == 2
        missing = await run.ran("status", "three")
        assert missing.code == 1
        assert 'no tunnel matches "three": the tunnels are server/one, server/two' in missing.err


async def test_an_id_in_a_rejected_file_is_reported_with_the_file_error(tmp_path: Path) -> None:
    text = "targets: {a: {host: a.invalid, user: u, password: {env: PW}, enabled: false, tunnels: [%s]}}\n"
    async with program(tmp_path, text % "{name: db, socks: 1080}") as run:
        await run.ran("wait")
        run.edit(text % "{name: db, socks: 1080}, {name: new, socks: 1081, holdTimout: 1s}")
        assert (await run.ran("reload")).code == 1
        for command in ("status", "diagnose", "wait", "restart", "pause", "resume", "port", "connections", "events"):
            missing = await run.ran(command, "a/new")
            assert missing.code == 1
            assert missing.err.startswith(
                'error: no tunnel matches "a/new": the tunnels are a/db; '
                f"{run.file} is invalid and its last valid content stays in use: {run.file}:1:"
            ), command
            assert "did you mean `holdTimeout`" in missing.err
            assert missing.err.count("\n") == 1


async def test_status_without_a_process_exits_with_3_and_the_paths(tmp_path: Path) -> None:
    nothing = await ran("status", env=NOT_RUNNING)
    assert (nothing.code, nothing.out) == (3, "")
    assert "/nonexistent/tunnels.sock (no such socket)" in nothing.err
    left = tmp_path / "tunnels.sock"
    with socket.socket(socket.AF_UNIX) as killed:  # an orderly exit removes the socket
        killed.bind(str(left))
    stale = await ran("status", "--control", left)
    assert stale.code == 3
    assert f"{left} (its process has ended)" in stale.err
    for command in (["wait", "--timeout", "0s"], ["restart", "--all"], ["reload"], ["port", "a"], ["events"]):
        assert (await ran(*command, env=NOT_RUNNING)).code == 1, command
    path = "/nonexistent/tunnels.sock"
    message = f"no running process found at {path} (no such socket): start one with `tunnels run FILE`\n"
    assert nothing.err == f"error: {message}"
    assert (await ran("wait", "--timeout", "0s", env=NOT_RUNNING)).err == f"error: timed out: {message}"


async def test_status_is_coloured_on_a_terminal_without_no_color(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with program(tmp_path, "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)) as run:
        await run.ran("wait")
        assert "\x1b[32mup" in await on_a_terminal(run, {})
        assert "\x1b[" not in await on_a_terminal(run, {"NO_COLOR": "1"})


async def on_a_terminal(run: Program, env: dict[str, str]) -> str:
    """Run `tunnels status` on a terminal and return its output."""
    ours, child_end = pty.openpty()
    try:
        command = [sys.executable, "-m", "reconciler", "status", "--control", str(run.control)]
        environment = {
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "."),
            **env,
        }
        shown = asyncio.create_task(asyncio.to_thread(all_of, ours))
        try:
            await asyncio.to_thread(
                subprocess.run, command, stdout=child_end, stderr=child_end, env=environment, check=False, timeout=60
            )
        finally:
            os.close(child_end)
        return (await shown).decode()
    finally:
        os.close(ours)


def all_of(terminal: int) -> bytes:
    """Return all output until the other end is closed."""
    output = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while more := os.read(terminal, 65536):
            output += more
    return output


async def test_watch_follows_changes_until_it_is_interrupted(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with program(tmp_path, "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)) as run:
        await run.ran("wait")
        async with process("status", "--watch", "--output", "json", "--control", run.control) as watch:
            assert watch.stdout is not None
            phases = [json.loads(await watch.stdout.readline())["tunnels"][0]["phase"]]
            await run.ran("pause", "--all")
            while "off" not in phases:
                line = await asyncio.wait_for(watch.stdout.readline(), WITHIN)
                phases.append(json.loads(line)["tunnels"][0]["phase"])
            assert phases[0] == "up"
            watch.send_signal(2)
            assert await asyncio.wait_for(watch.wait(), WITHIN) == 0, "off counts as healthy"


@pytest.mark.parametrize("columns", [60, 80])
async def test_watch_fits_60_tunnels_on_a_terminal_of_24_lines(columns: int, tmp_path: Path) -> None:
    text = "targets:\n" + "".join(
        f"  t{host}:\n    host: 127.0.0.1\n    port: {free_port()}\n    user: nobody\n    password: x\n"
        f"    hostKeys: [ssh-ed25519 {'A' * 43}=]\n    tunnels:\n"
        + "".join(
            f"      - {{name: '{'long-name-' * (number % 3)}{number}', local: '{free_port()}:db:5432', "
            f"description: 顧客データベース}}\n"
            for number in range(15)
        )
        for host in range(4)
    )
    async with program(tmp_path, text) as run:
        ours, child_end = pty.openpty()
        fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [sys.executable, "-m", "reconciler", "status", "--watch", "--control", str(run.control)]
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONPATH": ".", "PYTHONUTF8": "1"}
        watch = await asyncio.create_subprocess_exec(
            *command, stdin=child_end, stdout=child_end, stderr=child_end, env=environment
        )
        os.close(child_end)
        try:
            output = ""
            async with asyncio.timeout(WITHIN):
                while "0 of 60 tunnels up" not in output.rpartition("\x1b[H")[0]:
                    output += (await asyncio.to_thread(os.read, ours, 65536)).decode(errors="replace")
        finally:
            watch.kill()
            await watch.wait()
            os.close(ours)
    *_, screen, _ = output.split("\x1b[H")
    shown = [re.sub("\x1b\\[[0-9;]*[mKJ]", "", line) for line in screen.rstrip("\x1b[J\r\n").split("\r\n")]
    assert len(shown) <= 23
    assert max(map(text_width, shown)) <= columns
    assert [line.split()[0] for line in shown if line.startswith("T")] == ["TARGET", "TUNNEL"]
    assert sum("more tunnels: " in line for line in shown) == 1
    assert "0 of 60 tunnels up" in shown[-1] or "0 of 60 tunnels up" in shown[-2]


async def test_wait_waits_for_a_process_that_starts(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    control = {"TUNNELS_CONTROL": str(tmp_path / "control.sock")}
    waiting = asyncio.create_task(ran("wait", "server/echo", env=control))
    await asyncio.sleep(0.3)  # its first attempts have failed by now
    async with program(tmp_path, "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)):
        assert (await waiting).code == 0


async def test_wait_for_a_revision_ends_once_it_converged_or_was_rejected(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    first = "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)
    second = first + local("more", free_port(), echo.port)
    bad = second + local("worse", free_port(), 99999)
    (tmp_path / "second.yaml").write_text(second)
    (tmp_path / "bad.yaml").write_text(bad)
    revision = (await ran("check", "--output", "json", tmp_path / "second.yaml")).json["revision"]
    async with program(tmp_path, first) as run:
        assert (await run.ran("wait")).code == 0
        assert (await run.ran("wait", "--revision", revision, "--timeout", "200ms")).code == 1
        run.edit(second)
        assert (await run.ran("wait", "--revision", revision)).code == 0
        assert (await run.ran("wait", "server/more", "--timeout", "0s")).code == 0
        run.edit(bad)
        rejected = "sha256:" + hashlib.sha256(bad.encode()).hexdigest()
        assert (await ran("check", "--output", "json", tmp_path / "bad.yaml")).json["revision"] == rejected
        assert (await run.ran("wait", "--revision", "")).code == 2
        refused = await run.ran("wait", "--revision", rejected)
        assert refused.code == 1
        assert "99999" in refused.err


async def test_plan_counts_the_clients_of_the_running_process(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    stays = free_port()
    before = "targets:\n" + target(sshd) + local("echo", port, echo.port) + local("stays", stays, echo.port)
    after = "targets:\n" + target(sshd) + local("stays", stays, echo.port, holdTimeout="1s")
    new = tmp_path / "new.yaml"
    async with program(tmp_path, before) as run:
        await run.ran("wait")
        same = await run.ran("plan", "--exit-code", run.file)
        assert (same.code, same.out) == (0, "Nothing to do.\n")
        new.write_text(after)
        async with connected("127.0.0.1", port):
            await eventually(lambda: echo.connections == 1)
            plan = await run.ran("plan", "--exit-code", new)
            assert plan.code == 1
            assert re.search(r"- close +server/echo", plan.out)
            assert re.search(r"- drain +server/echo .*\(1 live client\)", plan.out)
            assert "~ assign server/stays  its settings changed: holdTimeout 10s -> 1s" in plan.out
            assert (await run.ran("plan", "-", stdin=after)).out == plan.out
        assert (await run.ran("status")).code == 0, "plan changes nothing"
        new.write_text(after.replace("    tunnels:", "    password: literal\n    tunnels:", 1))
        warned = await run.ran("plan", new)
        assert warned.code == 0
        assert "[literal-secret]" in warned.err
        strict = await run.ran("plan", "--strict", new)
        assert (strict.code, strict.out) == (2, "")
        assert "[literal-secret]" in strict.err
        new.write_text("targets: {a: {hots: b}}")
        invalid = await run.ran("plan", new)
        assert invalid.code == 2
        assert "did you mean" in invalid.err


async def test_restart_keeps_clients_unless_now_is_given(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with program(tmp_path, "targets:\n" + target(sshd) + local("echo", port, echo.port)) as run:
        await run.ran("wait")
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
            assert (await run.ran("restart", "server/*")).out == "server/echo: restarted\n"
            writer.write(b"b")
            assert await reader.readexactly(1) == b"b"
            assert (await run.ran("restart", "server", "--now")).code == 0
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        assert (await run.ran("wait")).code == 0
        assert await exchange("127.0.0.1", port) == b"ping"
        assert (await run.ran("restart", "nothing")).code == 1
        assert (await run.ran("restart")).code == 1, "no ID needs --all"


async def test_pause_turns_a_tunnel_off_and_resume_turns_it_on(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = "targets:\n" + target(sshd) + local("one", free_port(), echo.port) + local("two", free_port(), echo.port)
    async with program(tmp_path, text) as run:
        await run.ran("wait")
        assert (await run.ran("pause", "server/one", "--for", "1h")).out == "server/one: paused for 1h\n"
        status = await run.ran("status")
        assert status.code == 0
        assert re.search(r"server/one +paused ", status.out)
        [until] = re.findall(r"^  paused until (\S+Z)$", status.out, re.MULTILINE)
        ahead = datetime.fromisoformat(until) - datetime.now(UTC)
        assert timedelta(minutes=55) < ahead < timedelta(hours=1)
        [one, _] = (await run.ran("status", "--output", "json")).json["tunnels"]
        assert one["message"] == f"paused until {until}"
        assert "is off and has no port: paused" in (await run.ran("port", "server/one")).err
        assert (await run.ran("resume", "--all")).code == 0
        assert (await run.ran("wait")).code == 0
        assert "2 tunnels up" in (await run.ran("status")).out


async def test_reload_reports_the_mistakes(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)
    async with program(tmp_path, text) as run:
        await run.ran("wait")
        assert re.fullmatch(r"valid: sha256:[0-9a-f]{64}\n", (await run.ran("reload")).out)
        run.edit("targets:\n  server:\n    hots: a\n")
        bad = await run.ran("reload")
        assert bad.code == 1
        assert f"error: {run.file}:3:" in bad.err
        status = await run.ran("status")
        assert f"{run.file} is invalid: its last valid content stays in use." in status.out


async def test_connections_events_and_port_show_the_current_state(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with program(tmp_path, "targets:\n" + target(sshd) + local("any", 0, echo.port)) as run:
        await run.ran("wait")
        port = int((await run.ran("port", "server/any")).out)
        assert (await run.ran("connections")).out == "no clients are connected\n"
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"hello")
            await reader.readexactly(5)
            assert re.search(r"server/any +127\.0\.0\.1:\d+ .* 5B +5B\n", (await run.ran("connections")).out)
            [client] = (await run.ran("connections", "server", "--output", "json")).json["connections"]
            assert client["bytesSent"] == 5
            assert (await run.ran("connections", "other/*")).code == 1, "no tunnel matches"
        events = await run.ran("events")
        assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  tunnel server/any  .*up", events.out, re.MULTILINE)
        async with process("events", "server/any", "--follow", "--control", run.control) as follow:
            assert follow.stdout is not None
            await run.ran("pause", "server/any")
            lines = b""
            while b"paused" not in lines:
                lines += await asyncio.wait_for(follow.stdout.readline(), WITHIN)
            assert b"target server" not in lines


async def test_diagnose_tests_each_hop_and_says_what_to_fix(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = (
        "targets:\n"
        + target(sshd)
        + local("echo", free_port(), echo.port)
        + local("unserved", free_port(), free_port())
    )
    async with program(tmp_path, text + target(sshd, "stranger", user="nobody") + local("x", free_port(), 1)) as run:
        await run.ran("wait", "server")
        healthy = await run.ran("diagnose", "server/echo")
        assert healthy.code == 0
        assert "✓" in healthy.out
        assert "✗" not in healthy.out
        unserved = await run.ran("diagnose", "server/unserved", env={"PYTHONIOENCODING": "ascii"})
        assert unserved.code == 1
        assert "ok   server: log in" in unserved.out
        assert re.search(r"FAIL destination\n +.*\n +Fix: start the service there", unserved.out)
        stranger = await run.ran("diagnose", "stranger/*")
        assert stranger.code == 1
        assert "Fix: check `user` and the key here" in stranger.out
    assert "check --connect" in (await ran("diagnose", "a/b", env=NOT_RUNNING)).err


async def test_ids_of_the_running_process_complete_in_the_shell(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with program(tmp_path, "targets:\n" + target(sshd) + local("echo", free_port(), echo.port)) as run:
        await run.ran("wait")
        completing = {"_TUNNELS_COMPLETE": "bash_complete", "COMP_WORDS": "tunnels status ser", "COMP_CWORD": "2"}
        assert "server/echo" in (await run.ran(env=completing)).out
    assert "_TUNNELS_COMPLETE=bash_complete" in (await ran("completion", "bash")).out


async def test_unrelated_tunnels_variables_are_not_options() -> None:
    """Images set TUNNELS_VERSION, and Kubernetes TUNNELS_PORT for a service called tunnels."""
    foreign = {"TUNNELS_VERSION": "1.2", "TUNNELS_PORT": "tcp://10.0.0.1:9722", "TUNNELS_STATUS_WATCH": "x"}
    assert (await ran("schema", env=foreign)).code == 0
    assert (await ran("status", env={**NOT_RUNNING, **foreign})).code == 3


async def test_the_help_of_every_command_has_an_example() -> None:
    overview = (await ran("-h")).out
    verbs = re.findall(r"^  ([a-z]+)  ", overview.partition("Commands:")[2], re.MULTILINE)
    assert len(verbs) > 15
    for verb, explained in zip(verbs, await asyncio.gather(*(ran(verb, "-h") for verb in verbs)), strict=True):
        assert explained.code == 0
        assert re.search(rf"tunnels {verb}\b", explained.out.partition("\n\n")[2]), f"{verb}: no example"
        assert max(map(len, explained.out.splitlines())) <= 100, verb
