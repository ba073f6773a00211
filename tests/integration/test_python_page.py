"""The programs on the page about Python run, and print what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.postgres import Postgres
from support.redis import Redis
from support.sshd import Sshd

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/python.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", PAGE, re.DOTALL | re.MULTILINE)
PROGRAMS = [(code, printed) for language, code, printed in BLOCKS if language == "python" and "def test_" not in code]
TESTS = [code for language, code, _ in BLOCKS if language == "python" and "def test_" in code]

# Runs each program in a namespace of its own, and separates what they print.
_RUNNER = """
import sys
for path in sys.argv[1:]:
    with open(path) as file:
        exec(compile(file.read(), path, "exec"), {"__name__": "__main__"})
    print("---")
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Redis]:
    async with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def addresses(postgres: Postgres, store: Redis) -> dict[str, str]:
    """Return the addresses that stand for those of the page."""
    return {
        "cache.internal:6379": f"127.0.0.1:{store.port}",
        "db.internal:5432": f"127.0.0.1:{postgres.port}",
        "db2.internal:5432": f"127.0.0.2:{postgres.port}",
        "db.internal -> db2.internal": "127.0.0.1 -> 127.0.0.2",
    }


@pytest.fixture
def directory(sshd: Sshd, addresses: dict[str, str], tmp_path: Path) -> Path:
    """Write the file of the page with servers that exist."""
    [text] = [code for language, code, _ in BLOCKS if language == "yaml"]
    document: dict[str, Any] = yaml.safe_load(replaced(text, addresses))
    login = {"privateKey": str(sshd.client_key), "knownHosts": str(sshd.known_hosts), "user": sshd.user}
    document["targets"]["prod"] |= {"host": sshd.host, "port": sshd.port, **login}
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "tunnels.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return directory


def replaced(text: str, words: Mapping[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


async def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return await asyncio.to_thread(
        lambda: subprocess.run(
            command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=100
        )
    )


async def test_the_programs_of_the_page_print_what_it_says(directory: Path, addresses: dict[str, str]) -> None:
    files = []
    for number, (code, _) in enumerate(PROGRAMS):
        file = directory / f"{number}.py"
        file.write_text(replaced(code, addresses))
        files.append(file.name)
    done = await run(directory, "-W", "error", "-c", _RUNNER, *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("---\n")[:-1] == [replaced(expected, addresses) for _, expected in PROGRAMS]


async def test_the_tests_of_the_page_pass(directory: Path) -> None:
    (directory / "test_page.py").write_text("\n".join(TESTS))
    plugins = ("-p", "no:cacheprovider", "-p", "reconciler.pytest_tunnels")
    done = await run(directory, "-m", "pytest", *plugins, "--tunnels-config", "tunnels.yaml")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_each_program_of_the_page_has_its_output() -> None:
    assert len(PROGRAMS) >= 7
    assert len(TESTS) == 1
    assert all(printed for _, printed in PROGRAMS)
