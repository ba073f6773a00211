"""Blocks for other programs: Python, JSON, queries, settings of sshd, keys, units. Their programs parse them."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from documentation.kinds import BLOCKS, Kind, kind_of
from support.keys import Keys
from support.sshd import Sshd, sshd_binary


def test_python_blocks_parse() -> None:
    for block in BLOCKS:
        if kind_of(block) is Kind.PYTHON:
            ast.parse(block.text, filename=str(block))


def test_json_blocks_parse() -> None:
    for block in BLOCKS:
        if kind_of(block) is Kind.JSON:
            json.loads(block.text)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_queries_parse(tmp_path: Path) -> None:
    queries = [block.text for block in BLOCKS if kind_of(block) is Kind.PROMQL]
    rules = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "documentation", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_settings_of_sshd_are_valid(tmp_path: Path, keys: Keys) -> None:
    checked = 0
    for block in BLOCKS:
        lines = block.text.splitlines()
        if kind_of(block) is not Kind.TEXT or not all(re.match(r" *[A-Z][A-Za-z]+ \S+", line) for line in lines):
            continue
        config = tmp_path / "sshd_config"
        config.write_text(f"HostKey {keys.make('host').private}\n{block.text}")
        command = [sshd_binary(), "-t", "-f", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}: {done.stderr}"
        checked += 1
    assert checked >= 3


async def test_lines_of_authorized_keys_let_their_key_in(sshd: Sshd, keys: Keys) -> None:
    """A server ignores a line with an option that it does not know."""
    lines = [
        (block, line)
        for block in BLOCKS
        if kind_of(block) is Kind.TEXT
        for line in block.text.splitlines()
        if line.startswith("restrict,")
    ]
    assert len(lines) >= 3
    for number, (block, line) in enumerate(lines):
        key = keys.make(f"client-{number}")
        sshd.authorize(key, restrictions=line.partition(" ssh-ed25519 ")[0])
        command = ["ssh", "-F", "none", "-p", str(sshd.port), "-i", str(key.private), "-o", "IdentitiesOnly=yes"]
        command += ["-o", f"UserKnownHostsFile={sshd.known_hosts}", "-o", "BatchMode=yes", f"{sshd.user}@{sshd.host}"]
        ssh = await asyncio.create_subprocess_exec(*command, "true", stdin=asyncio.subprocess.DEVNULL)
        assert await ssh.wait() == 0, f"{block}: {line}"


def test_units_are_valid(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    for block in BLOCKS:
        name = Path(block.file_name or "").name if kind_of(block) is Kind.FILE else ""
        if not name.endswith(".service"):
            continue
        unit, program = tmp_path / name, shutil.which("true")
        # The program of a unit must exist.
        unit.write_text(re.sub(r"^(Exec\w+=)\S*/(\w+)", rf"\1{program} \2", block.text, flags=re.MULTILINE))
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert name not in done.stderr, f"{block}: {done.stderr}"
