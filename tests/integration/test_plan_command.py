"""`tunnels plan`: between two files, without a running process, and with live clients."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from integration.commands import program, ran
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, remote, target
from support.wait import eventually, free_port

OLD = """
targets:
  prod:
    host: bastion.example.com
    user: u
    agent: true
    tunnels:
      - {name: db, local: "5432:db1:5432", holdTimeout: 5s}
      - {name: gone, local: "5433:x:1"}
      - {name: moves, local: "5434:x:2"}
"""
NEW = """
targets:
  prod:
    host: bastion.example.com
    user: u
    agent: true
    tunnels:
      - {name: db, local: "5432:db2:5432", holdTimeout: 30s}
      - {name: moves, local: "5435:x:2"}
      - {name: fresh, socks: 1080}
"""


def files(directory: Path) -> tuple[Path, Path]:
    old, new = directory / "old.yaml", directory / "new.yaml"
    old.write_text(OLD)
    new.write_text(NEW)
    return old, new


async def test_a_plan_between_two_files_names_each_step_and_field(tmp_path: Path) -> None:
    old, new = files(tmp_path)
    plan = await ran("plan", new, "--from", old)
    assert plan.code == 0
    assert [" ".join(line.split()) for line in plan.out.splitlines()] == [
        "~ assign prod/db its settings changed: remoteHost db1 -> db2, holdTimeout 5s -> 30s",
        "+ open prod/fresh 127.0.0.1:1080 -> (each client's choice)",
        "- close prod/gone no tunnel listens there any more",
        "- close prod/moves no tunnel listens there any more",
        "+ open prod/moves 127.0.0.1:5435 -> x:2",
        "",
        "1 tunnel to open, 2 to change, 1 to close.",
    ]
    assert (await ran("plan", new, "--from", old, "--exit-code")).code == 1
    assert (await ran("plan", new, "--from", old)).out == plan.out, "stable"


async def test_a_renamed_tunnel_does_not_hide_a_new_destination(tmp_path: Path) -> None:
    old, new = files(tmp_path)
    renamed = OLD.replace(
        'name: db, local: "5432:db1:5432"', 'name: pg, local: "5432:evil:5432", bandwidthLimit: 2MiB/s'
    )
    new.write_text(renamed.replace('"5434:x:2"', '"5435:y:2", allow: [10.0.0.0/8]'))
    plan = await ran("plan", new, "--from", old)
    assert [" ".join(line.split()) for line in plan.out.splitlines()] == [
        "- close prod/moves no tunnel listens there any more",
        "+ open prod/moves 127.0.0.1:5435 -> y:2; allow (none) -> 10.0.0.0/8",
        "~ assign prod/pg it takes over the listener of prod/db: remoteHost db1 -> evil, bandwidthLimit none -> 2MiB/s",
        "",
        "0 tunnels to open, 2 to change, 0 to close.",
    ]
    found = (await ran("plan", new, "--from", old, "--output", "json")).json
    assert [one["changes"] for one in found["actions"]] == [
        [],
        ["localPort 5434 -> 5435", "remoteHost x -> y", "allow (none) -> 10.0.0.0/8"],
        ["remoteHost db1 -> evil", "bandwidthLimit none -> 2MiB/s"],
    ]


async def test_json_has_the_same_steps(tmp_path: Path) -> None:
    old, new = files(tmp_path)
    found = (await ran("plan", new, "--from", old, "--output", "json")).json
    assert (found["errors"], found["clients"]) == ([], 0)
    assert [(one["action"], one["subject"], one["clients"]) for one in found["actions"]] == [
        ("assign", "tunnel prod/db", 0),
        ("open", "tunnel prod/fresh", 0),
        ("close", "tunnel prod/gone", 0),
        ("close", "tunnel prod/moves", 0),
        ("open", "tunnel prod/moves", 0),
    ]


async def test_an_empty_plan_exits_with_0(tmp_path: Path) -> None:
    old, _ = files(tmp_path)
    same = await ran("plan", old, "--from", old, "--exit-code")
    assert (same.code, same.out) == (0, "Nothing to do.\n")


async def test_a_pipe_gets_the_directory_of_the_other_file(tmp_path: Path) -> None:
    """`git show main:tunnels.yaml | tunnels plan tunnels.yaml --from -`: relative paths have not changed."""
    text = OLD.replace("agent: true", "privateKey: keys/id")
    new = tmp_path / "new.yaml"
    new.write_text(text)
    same = await ran("plan", new, "--from", "-", "--exit-code", stdin=text)
    assert (same.code, same.out) == (0, "Nothing to do.\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writing = asyncio.create_task(asyncio.to_thread(fifo.write_text, text))
    assert (await ran("plan", new, "--from", fifo, "--exit-code")).code == 0
    await writing


async def test_an_invalid_file_exits_with_2_and_its_errors(tmp_path: Path) -> None:
    old, _ = files(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_text("targets: {a: {host: b, tunnels: [{local: x}]}}")
    plan = await ran("plan", bad, "--from", old, "--exit-code")
    assert (plan.code, plan.out) == (2, "")
    assert f"error: {bad}:1:" in plan.err
    assert (await ran("plan", tmp_path / "missing.yaml", "--from", old)).code == 2
    missing = await ran("plan", tmp_path / "missing.yaml")
    assert (missing.code, missing.out) == (2, "")
    assert "missing.yaml: cannot be read: no such file" in missing.err


async def test_without_a_running_process_the_plan_is_a_fresh_start(tmp_path: Path) -> None:
    old, _ = files(tmp_path)
    plan = await ran("plan", old, env={"TUNNELS_CONTROL": "/nonexistent/tunnels.sock"})
    assert plan.code == 0
    assert "3 tunnels to open" in plan.out
    assert "no running process found at /nonexistent/tunnels.sock: showing what a fresh start would do" in plan.err


async def test_a_removed_tunnel_that_never_opened_is_in_the_plan(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    kept, new = local("kept", free_port(), echo.port), tmp_path / "new.yaml"
    new.write_text(file(sshd, kept))
    async with program(tmp_path, file(sshd, kept, local("taken", echo.port, echo.port))) as run:
        assert "server/taken is down (local_port_in_use)" in (await run.ran("wait", "--timeout", "1s")).err
        plan = await run.ran("plan", new, "--exit-code")
        assert plan.code == 1
        assert plan.out == (
            "- close server/taken  no tunnel needs it; it is not open yet\n"
            "\n"
            "0 tunnels to open, 0 to change, 1 to close.\n"
        )


async def test_an_unchanged_file_has_no_steps_while_tunnels_are_down(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """One tunnel listens, one has a taken port, and one has a target that refuses connections."""
    text = file(sshd, local("up", free_port(), echo.port), local("taken", echo.port, echo.port))
    text += target(sshd, "dead", port=free_port())
    text += local("far", free_port(), echo.port) + remote("near", 8080, echo.port)
    new = tmp_path / "new.yaml"
    async with program(tmp_path, text) as run:
        await run.ran("wait", "server/up")

        async def others_are_down() -> bool:
            tunnels = (await run.ran("status", "--output", "json")).json["tunnels"]
            return [one["phase"] for one in tunnels].count("down") == 3

        await eventually(others_are_down)
        new.write_text(text)
        same = await run.ran("plan", new, "--exit-code")
        assert (same.code, same.out) == (0, "Nothing to do.\n")
        new.write_text(text.replace("near, type: remote", "other, type: remote, holdTimeout: 1s"))
        plan = await run.ran("plan", new, "--exit-code")
        assert plan.code == 1
        assert plan.out.splitlines()[:-2] == [
            "~ assign dead/other  it takes over the listener of dead/near: holdTimeout 10s -> 1s"
        ]


async def test_a_client_on_a_replaced_connection_is_counted_once(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, new = free_port(), tmp_path / "new.yaml"
    new.write_text(file(sshd, local("echo", port, echo.port), compress="true"))
    async with program(tmp_path, file(sshd, local("echo", port, echo.port))) as run:
        await run.ran("wait")
        async with connected("127.0.0.1", port):
            await eventually(lambda: echo.connections == 1)
            plan = await run.ran("plan", new)
            lines = [" ".join(line.split()) for line in plan.out.splitlines()]
            assert lines == [
                "+ dial server its connection settings changed: compress false -> true",
                "- retire server another connection has taken over (1 live client)",
                "- drain server/echo its connection was replaced (1 live client)",
                "",
                "0 tunnels to open, 0 to change, 0 to close, 1 connection to make; 1 live client affected.",
            ]
            assert (await run.ran("plan", "--output", "json", new)).json["clients"] == 1


async def test_a_client_that_an_edit_forbids_is_in_the_plan_and_is_cut(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, new = free_port(), tmp_path / "new.yaml"
    new.write_text(file(sshd, local("echo", port, echo.port, allow="[10.0.0.0/8]")))
    async with program(tmp_path, file(sshd, local("echo", port, echo.port))) as run:
        await run.ran("wait")
        async with connected("127.0.0.1", port) as (reader, _):
            await eventually(lambda: echo.connections == 1)
            plan = await run.ran("plan", new)
            assert [" ".join(line.split()) for line in plan.out.splitlines()] == [
                "~ assign server/echo its settings changed: allow (none) -> 10.0.0.0/8 (1 live client cut)",
                "",
                "0 tunnels to open, 1 to change, 0 to close; 1 live client affected.",
            ]
            run.edit(new.read_text())
            await run.ran("reload")
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
        events = await run.ran("events", "server/echo")
        assert "cut" in events.out
        assert "1 client: source 127.0.0.1 is no longer allowed" in events.out


async def test_a_plan_is_wrapped_to_80_columns(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD)
    hosts = "hosts: [bastion-a.example.com, bastion-b.example.com]\n    keepaliveInterval: 3s"
    new.write_text(OLD.replace("host: bastion.example.com", hosts))
    plan = await ran("plan", new, "--from", old, env={"COLUMNS": "80"})
    assert plan.out.splitlines() == [
        "+ dial   prod  its connection settings changed: hosts bastion.example.com:22 ->",
        "               [bastion-a.example.com:22, bastion-b.example.com:22]",
        "- retire prod  another connection has taken over",
        "~ tune   prod  its settings changed: keepaliveInterval 10s -> 3s",
        "",
        "0 tunnels to open, 0 to change, 0 to close, 1 connection to make.",
    ]
