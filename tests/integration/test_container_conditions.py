"""A container's conditions: a uid without a name, no HOME, a read-only root, no /tmp, no capabilities.

A share of the integration tests runs under them here; `make container-test` runs all of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reconciler import __version__
from reconciler.cli.main import COMMANDS
from support import command_runner, container, image
from support.command_runner import Result
from support.processes import tied_to_parent
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local
from support.wait import free_port

ROOT = Path(__file__).parents[2]
WITHIN = 300.0  # seconds, ten times the usual
SCENARIOS = [
    "tests/integration/test_local_forward.py::test_either_side_may_send_eof_first_and_still_receive",
    "tests/integration/test_local_forward.py::test_psql_works_through_a_local_forward",
    "tests/integration/test_run.py",
    "tests/integration/test_home_directory.py",
]
FILE = str(container.FILES / "tunnels.yaml")
HEALTH_CHECK = yaml.safe_load((ROOT / "examples/compose/compose.yaml").read_text())["services"]["tunnels"][
    "healthcheck"
]
# All commands but `run`, in lists of commands that run at the same time.
PHASES = [
    [HEALTH_CHECK["test"][2:]],
    [
        ["status"],
        ["connections"],
        ["events"],
        ["port", "server/echo"],
        ["diagnose", "server/echo"],
        ["check", "--connect", FILE],
        ["plan", FILE],
        ["trust", FILE],
        ["import", "--", "ssh", "-L", "1:h:2", "u@h"],
        ["explain", "holdTimeout"],
        ["init", "-"],
        ["schema"],
        ["completion", "bash"],
        ["demo", "--exit-after", "5s"],
    ],
    [["reload"], ["restart", "--all"]],
    [["pause", "--all"]],
    [["resume", "--all"]],
]
_NEED_THE_PROCESS = frozenset(
    {"wait", "status", "connections", "events", "port", "diagnose", "reload", "restart", "pause", "resume"}
)
_NEED_FILES = frozenset({"import", "demo"})


@pytest.fixture(autouse=True)
def possible() -> None:
    if problem := container.why_not():
        pytest.skip(problem)


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    command = tied_to_parent(container.command(*words))
    environ = {**os.environ, "PYTHON": sys.executable, "ROOT": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WITHIN, env=environ)


def test_the_conditions_are_those_of_a_container() -> None:
    said = ran("sh", "-c", "id -un; touch /tmp/x; touch /x; echo ~; env; grep Cap /proc/self/status").stdout
    assert "HOME=" not in said
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0" * 16}
    assert not Path("/x").exists()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The directory of tunnels.yaml and its key."""
    directory = tmp_path / "files"
    directory.mkdir()
    return directory


async def every_command(
    server: Sshd, echo: EchoServer, files: Path, *, has_run_tunnels: bool, root: str = "/"
) -> dict[str, Result]:
    """Run every command beside a running process, in the conditions of the image."""
    shutil.copy(server.client_key, files)
    shutil.copy(command_runner.__file__, files / "runner.py")
    fields = {
        "privateKey": container.FILES / server.client_key.name,
        "knownHosts": None,
        "hostKeys": f"['{server.host_public_key}']",
    }
    (files / "tunnels.yaml").write_text(file(server, local("echo", 0, echo.port), **fields))
    first = [[["wait", "--timeout", "100s"]]] if has_run_tunnels else []
    work = {"process": ["run", "--listen", f"127.0.0.1:{free_port()}", FILE], "phases": [*first, *PHASES]}
    python = [f"PYTHONPATH={ROOT}", sys.executable] if root == "/" else ["python"]
    words = ["env", "-C", "/", *python, str(container.FILES / "runner.py"), json.dumps(work)]
    command = container.as_image(*words, files=files, has_run_tunnels=has_run_tunnels, root=Path(root))
    done = await asyncio.to_thread(
        subprocess.run, tied_to_parent(command), capture_output=True, text=True, check=False, timeout=WITHIN
    )
    assert done.returncode == 0, done.stderr
    results = {name: Result(*result) for name, result in json.loads(done.stdout).items()}
    assert results.keys() == COMMANDS.keys()
    for name, result in results.items():
        assert "Traceback" not in result.output, f"{name}: {result.output}"
    return results


async def test_only_temporary_files_are_missing_with_run_tunnels(sshd: Sshd, echo: EchoServer, files: Path) -> None:
    results = await every_command(sshd, echo, files, has_run_tunnels=True)
    failed = {name for name, result in results.items() if result.code != 0}
    assert failed == _NEED_FILES, {name: results[name] for name in failed}
    for name in _NEED_FILES:
        assert "error: cannot create a temporary directory: " in results[name].output
        assert "set TMPDIR" in results[name].output
    assert "WARNING" not in results["run"].output


async def test_without_a_writable_directory_commands_name_run_tunnels(
    sshd: Sshd, echo: EchoServer, files: Path
) -> None:
    results = await every_command(sshd, echo, files, has_run_tunnels=False)
    codes = {name: result.code for name, result in results.items()}
    assert codes == dict.fromkeys(COMMANDS, 0) | dict.fromkeys(_NEED_THE_PROCESS | _NEED_FILES, 1) | {"status": 3}
    for name in _NEED_THE_PROCESS | {"run"}:
        assert "none of /run/tunnels, /tmp, /var/tmp is writable" in results[name].output, results[name].output
        assert f"make /run/tunnels writable for uid {container.UID}" in results[name].output


@pytest.mark.timeout(900)
async def test_every_command_works_in_the_image_with_run_tunnels(sshd: Sshd, echo: EchoServer, files: Path) -> None:
    if problem := image.why_not():
        pytest.skip(problem)
    with image.built(__version__) as built:
        assert built.config["User"] == "65532:65532"
        assert built.config["Healthcheck"]["Test"][:2] == ["CMD", "python"]
        assert built.config["Labels"]["org.opencontainers.image.version"] == __version__
        bill = json.loads((built.root / "opt/tunnels/tunnel-reconciler.cdx.json").read_text())
        assert "asyncssh" in {component["name"] for component in bill["components"]}
        results = await every_command(sshd, echo, files, has_run_tunnels=True, root=str(built.root))
    assert {name for name, result in results.items() if result.code != 0} == _NEED_FILES, results
    assert "ssh is not installed" in results["import"].output
    assert "set TMPDIR" in results["demo"].output


@pytest.mark.timeout(WITHIN + 60)
def test_the_main_scenarios_pass() -> None:
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = ran(*pytest_command, *SCENARIOS)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
