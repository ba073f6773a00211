"""`tunnels trust` and `tunnels check --connect`, against real servers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from integration.commands import ran
from support.keys import Keys
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import free_port


def keys_to_paste(out: str) -> list[str]:
    """Return the first key under each `hostKeys:`."""
    return re.findall(r"^hostKeys:\n  - (.*)$", out, re.MULTILINE)


def shown_by_ssh_keygen(public_key: Path) -> str:
    import subprocess

    found = subprocess.run(["ssh-keygen", "-lf", public_key], capture_output=True, check=True, text=True)
    return found.stdout.split()[1]


async def test_trust_shows_the_fingerprint_and_the_line_to_paste(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    unknown = target(sshd, user="nobody", knownHosts=tmp_path / "none") + local("x", free_port(), 1)
    file.write_text("targets:\n" + unknown)
    fetched = await ran("trust", file)
    assert fetched.code == 0
    assert keys_to_paste(fetched.out) == [sshd.host_public_key]
    assert shown_by_ssh_keygen(sshd.host_key.public) in fetched.out
    assert "new key: compare it" in fetched.out
    assert "Accepted" not in sshd.log_text(), "no login"

    pinned = f'    hostKeys: ["{keys_to_paste(fetched.out)[0]}"]\n    tunnels:\n'
    file.write_text("targets:\n" + target(sshd).replace("    tunnels:\n", pinned) + local("x", free_port(), 1))
    assert (await ran("check", "--connect", file)).code == 0, "the pinned key is trusted"
    assert "already known" in (await ran("trust", file)).out


async def test_trust_warns_of_a_changed_key(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1))
    sshd.change_host_key()
    await sshd.restart()
    fetched = await ran("trust", file)
    assert fetched.code == 0
    assert "CHANGED KEY: the known key is ssh-ed25519 SHA256:" in fetched.out


async def test_trust_reports_keys_that_cannot_be_fetched_and_shows_the_others(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    dead = f"  dead:\n    host: 127.0.0.1\n    port: {free_port()}\n    user: u\n    agent: true\n    tunnels: []\n"
    file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1) + dead)
    fetched = await ran("trust", file)
    assert fetched.code == 1
    assert "error: dead: 127.0.0.1:" in fetched.err
    assert keys_to_paste(fetched.out) == [sshd.host_public_key]
    assert (await ran("trust", file, "ser*")).code == 0
    (tmp_path / "server").mkdir()
    beside = await ran("trust", file, "server", cwd=tmp_path)
    assert (beside.code, keys_to_paste(beside.out)) == (0, [sshd.host_public_key]), (
        "the name is a target, not the directory"
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text("[")
    half = await ran("trust", file, broken, "server")
    assert (half.code, keys_to_paste(half.out)) == (1, [sshd.host_public_key])
    assert "broken.yaml:" in half.err
    missing = await ran("trust", file, "nobody")
    assert missing.code == 1
    assert 'no target matches "nobody": the targets are server, dead' in missing.err


async def test_trust_fetches_keys_behind_a_jump_host(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    async with Sshd(tmp_path / "inner", client=sshd.client) as inner:
        behind = target(inner, "inner", knownHosts=tmp_path / "none", jumpHost="server") + local("x", free_port(), 1)
        file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1) + behind)
        fetched = await ran("trust", file, "inner")
        assert fetched.code == 0
        assert re.findall(r"^# (\w+): ", fetched.out, re.MULTILINE) == ["server", "inner"]
        assert keys_to_paste(fetched.out) == [sshd.host_public_key, inner.host_public_key]
        file.write_text("targets:\n" + target(sshd, knownHosts=tmp_path / "none") + local("x", free_port(), 1) + behind)
        refused = await ran("trust", file, "inner")
        assert refused.code == 1
        assert "cannot log in to the jump host of " in refused.err


@pytest.mark.parametrize("output", ["text", "json"])
async def test_check_connect_logs_in_to_every_target_and_opens_nothing(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, output: str
) -> None:
    file, port = tmp_path / "tunnels.yaml", free_port()
    wrong = target(sshd, "wrong", privateKey=Keys(tmp_path / "other").make("other").private)
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port) + wrong + local("x", free_port(), 1))
    checked = await ran("check", "--connect", "--output", output, file)
    assert checked.code == 2
    if output == "json":
        logins = {one["target"]: (one["ok"], one["reason"]) for one in checked.json["logins"]}
        assert logins == {"server": (True, None), "wrong": (False, "auth")}
    else:
        assert f"target server: login to {sshd.host}:{sshd.port} as {sshd.user} succeeded" in checked.out
        assert "error: target wrong (auth): " in checked.err
    assert "logins" not in (await ran("check", "--output", "json", file)).json
