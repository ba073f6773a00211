"""A process without a home directory: its uid has no passwd entry, and HOME is not set or names no directory.

The tests need such a uid. test_container_conditions.py runs them with one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from integration.commands import ran
from support import container
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local, target
from support.wait import free_port

pytestmark = pytest.mark.skipif(not container.is_entered(), reason="test_container_conditions.py runs it")

HOMES: dict[str, Mapping[str, str]] = {
    "HOME not set": {},
    "HOME=/": {"HOME": "/"},
    "HOME not there": {"HOME": "/nonexistent"},
}


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the HOME that this program sets for asyncssh in its own process, which may be this one."""
    monkeypatch.delenv("HOME", raising=False)


@pytest.mark.parametrize("home", HOMES)
async def test_absolute_paths_need_no_home_directory(sshd: Sshd, echo: EchoServer, tmp_path: Path, home: str) -> None:
    config, control = tmp_path / "tunnels.yaml", tmp_path / "control"
    config.write_text(
        file(sshd, local("echo", free_port(), echo.port))
        + target(sshd, "pinned", knownHosts=None, hostKeys=f"['{sshd.host_public_key}']")
        + local("echo", free_port(), echo.port)
    )
    diagnose = [sys.executable, "-m", "reconciler", "diagnose", "server/echo", "--control", control]
    for command in (
        ["check", "--connect", config],
        ["trust", config],
        ["run", "--listen", "none", "--control", control, config, "--", *diagnose],
    ):
        done = await ran(*command, env=HOMES[home])
        assert (done.code, "Traceback" in done.err) == (0, False), done.err


async def test_an_unknown_tilde_names_the_field_and_what_to_write(sshd: Sshd, tmp_path: Path) -> None:
    fields = ["privateKey", "knownHosts", "certificate", "agent"]
    config = tmp_path / "tunnels.yaml"
    config.write_text(
        "targets:\n" + "".join(target(sshd, name.lower(), **{name: "~/file"}) + local("x", 0, 1) for name in fields)
    )
    refused = await ran("check", "--connect", config, env={})
    assert refused.code == 2
    for field in fields:
        assert f"targets.{field.lower()}.{field}: `~` is unknown (HOME is not set, and uid " in refused.err
        assert f"error: target {field.lower()} (secret_unreadable): " in refused.err
    advice = "write an absolute path, or set HOME in the environment of this process"
    assert refused.err.count(advice) == 2 * len(fields), "as a warning, and as the reason of the target"
