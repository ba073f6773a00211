"""Several teams, one process: clashes between files, and the policy, with a real `tunnels run` on a directory."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from integration.commands import program, ran
from support.endpoints import Client, client_of
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local
from support.wait import WITHIN, eventually, free_port

POLICY = """
rules:
  - files: [tunnels.yaml]
    targets: {{define: [server]}}
    servers: ["127.0.0.1:{ssh}"]
    paths: ["{secrets}/**"]
    local: {{listen: ["127.0.0.1:*"], destinations: ["127.0.0.1:*"]}}
  - files: [a.yaml, b.yaml]
    targets: {{use: [server]}}
    local: {{listen: {listen}, destinations: ["127.0.0.1:{echo}"]}}
    variables: [T_*]
"""


async def rejected(control: Client, *files: Path, because: str = "") -> dict[str, str]:
    """Wait until exactly these files are not valid, the first one `because` of that. Return the error of each."""
    found: dict[str, str] = {}

    async def reached() -> bool:
        nonlocal found
        states = (await control.get("/api/v1/status"))["config"]["files"]
        found = {one["path"]: one["error"] for one in states if not one["valid"]}
        return found.keys() == set(map(str, files)) and (not files or because in found[str(files[0])])

    await eventually(reached, within=WITHIN, message=lambda: f"not valid: {found}")
    return found


async def up(control: Client, *tunnels: str) -> None:
    """Wait until these tunnels exist and are up."""

    async def reached() -> bool:
        found = (await control.get("/api/v1/status"))["tunnels"]
        return {one["id"] for one in found if one["up"]} == set(tunnels)

    await eventually(reached, within=WITHIN, message=f"{tunnels} are up")


def team(*tunnels: str) -> str:
    return "targets:\n  server:\n    tunnels:\n" + "".join(tunnels)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "teams").mkdir()
    return tmp_path / "teams", tmp_path / "policy.yaml"


def policy(sshd: Sshd, echo: EchoServer, *listen: int) -> str:
    addresses = json.dumps([f"127.0.0.1:{port}" for port in listen])
    return POLICY.format(ssh=sshd.port, secrets=sshd.client_key.parent, echo=echo.port, listen=addresses)


async def is_open(port: int) -> bool:
    try:
        return await exchange("127.0.0.1", port, b"hello") == b"hello"
    except OSError:
        return False


async def test_of_two_teams_only_the_one_that_edits_is_refused(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, places: tuple[Path, Path]
) -> None:
    teams, rules = places
    first, second, third, other = (free_port() for _ in range(4))
    rules.write_text(policy(sshd, echo, first, second))
    a, b = teams / "a.yaml", teams / "b.yaml"
    a.write_text(team(local("a", first, echo.port)))
    b.write_text(team(local("b", second, echo.port)))
    base = file(sshd, local("base", third, echo.port))
    options = ("--policy", str(rules), str(teams))
    async with program(tmp_path, base, *options) as process, client_of(path=str(process.control)) as control:
        await up(control, "server/base", "server/a", "server/b")

        # A clash: the earlier file takes the port of the later one.
        a.write_text(team(local("new", second, echo.port)))
        error = (await rejected(control, a))[str(a)]
        assert error.startswith(f"{a}:4:9: targets.server.tunnels[0]: listens on 127.0.0.1:{second}, which conflicts")
        assert f"server/b at {b}:4:9" in error
        assert await is_open(first)
        assert await is_open(second)

        # The policy: a port that it does not permit. The other team's edit is applied meanwhile.
        a.write_text(team(local("a", other, echo.port)))
        b.write_text(team(local("b2", second, echo.port)))
        error = (await rejected(control, a, because="[policy-listen]"))[str(a)]
        assert f"listens on 127.0.0.1:{other}, which the policy does not permit: expected 127.0.0.1:{first}" in error
        await up(control, "server/base", "server/a", "server/b2")
        assert await is_open(first)

        # `plan` and `check` say the same before the edit.
        planned = await process.ran("plan", process.file, a, b)
        assert planned.code == 2
        assert "[policy-listen]" in planned.err
        checked = await ran("check", "--policy", rules, process.file, teams)
        assert (checked.code, checked.err.count("[policy-listen]")) == (2, 1)

        a.write_text(team(local("a", first, echo.port)))
        await rejected(control)

        # A variable that is not set turns off its tunnel, and not the shared target.
        b.write_text(team(local("b2", second, echo.port, description='"${T_UNSET}"')))
        await up(control, "server/base", "server/a")
        assert await is_open(first)


async def test_the_policy_file_is_watched(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, places: tuple[Path, Path]
) -> None:
    teams, rules = places
    first, second, third, other = (free_port() for _ in range(4))
    rules.write_text(policy(sshd, echo, first))
    a, b = teams / "a.yaml", teams / "b.yaml"
    a.write_text(team(local("a", first, echo.port)))
    b.write_text(team(local("b", second, echo.port)))
    base = file(sshd, local("base", third, echo.port))
    options = ("--policy", str(rules), str(teams))
    async with program(tmp_path, base, *options) as process, client_of(path=str(process.control)) as control:
        await rejected(control, b)  # at start there is no last good content
        await up(control, "server/base", "server/a")
        assert not await is_open(second)

        # A policy that permits more opens what it refused before.
        rules.write_text(policy(sshd, echo, first, second))
        await rejected(control)
        await up(control, "server/base", "server/a", "server/b")

        # A policy that permits less closes nothing. A new violation is still refused.
        rules.write_text(policy(sshd, echo, second))
        await rejected(control, a, because="[policy-listen]")
        assert await is_open(first)
        b.write_text(team(local("b", second, echo.port), local("c", other, echo.port)))
        await rejected(control, a, b)
        assert await is_open(second)

        # A bad or missing policy file is an error. The last good one stays in force.
        for text in ("rules: [", "rules: [{files: [a.yaml], listn: []}]", None):
            if text is None:
                rules.unlink()
            else:
                rules.write_text(text)
            await rejected(control, a, b, rules)
        a.write_text(team(local("a2", other, echo.port)))
        b.write_text(team(local("b", second, echo.port)))
        await rejected(control, a, rules)
        await eventually(partial(is_open, second))


async def test_without_a_valid_policy_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("rules: [{files: [x], listn: []}]")
    (tmp_path / "tunnels.yaml").write_text("targets: {}\n")
    for command, *options in (["run", "--listen", "none", "--control", "none"], ["check"], ["plan"]):
        done = await ran(command, *options, "--policy", tmp_path / "policy.yaml", tmp_path / "tunnels.yaml")
        assert done.code == 2, command
        assert f"{tmp_path}/policy.yaml:1:22: rules[0].listn: unknown key" in done.err
        assert "Traceback" not in done.err


async def test_the_policy_comes_from_the_environment_too(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("rules: [{files: [a.yaml]}]")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("targets: {}\n")
    environ = {"TUNNELS_POLICY": str(tmp_path / "policy.yaml")}
    done = await ran("check", "--each", tmp_path, env=environ)
    assert (done.code, done.out.count(": valid"), done.err.count("error: ")) == (2, 1, 1)
    assert "b.yaml: no rule of " in done.err
    assert (await ran("check", tmp_path / "b.yaml", env={"TUNNELS_POLICY": ""})).code == 0
    for wrong, message in (("", "expected the path of a policy file"), (str(tmp_path), "is a directory")):
        done = await ran("check", "--each", "--policy", wrong, tmp_path / "a.yaml", tmp_path / "b.yaml")
        assert done.code == 2
        assert done.err.count(message) == 1
        assert ": valid" not in done.out
