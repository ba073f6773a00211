"""The light commands do not import the heavy half: a prompt or a probe runs them every few seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("asyncssh", "aiohttp", "asyncio", "jsonschema", "prometheus_client", "rich", "watchfiles", "yaml")

LIGHT = (
    "status",
    "wait --timeout 0s",
    "port prod/pg",
    "restart --all",
    "pause --all",
    "resume --all",
    "reload",
    "connections",
    "events",
    "diagnose prod/pg",
    "--help",
    "completion bash",
)


@pytest.mark.parametrize("command", LIGHT)
def test_a_light_command_imports_nothing_heavy(command: str) -> None:
    program = f"""
import sys
from reconciler.cli.main import main
try:
    main({command.split()!r})
finally:
    print("imported:", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    environment = {"TUNNELS_CONTROL": "/nonexistent/tunnels.sock", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.stdout.splitlines()[-1].split() == ["imported:"], ended.stderr
