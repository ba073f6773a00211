"""The client commands import no large packages: prompts and probes run them every few seconds."""

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
def test_a_client_command_imports_no_large_package(command: str) -> None:
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
